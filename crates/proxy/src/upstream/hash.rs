//! Consistent hashing: xxHash64, Ketama's ring and Maglev's table (Envoy `ring_hash`, `maglev`).

/// xxHash64 of `data`, as Envoy hashes keys.
pub fn xxh64(data: &[u8], seed: u64) -> u64 {
    const P1: u64 = 0x9E37_79B1_85EB_CA87;
    const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
    const P3: u64 = 0x1656_67B1_9E37_79F9;
    const P4: u64 = 0x85EB_CA77_C2B2_AE63;
    const P5: u64 = 0x27D4_EB2F_1656_67C5;
    let round = |acc: u64, lane: u64| {
        acc.wrapping_add(lane.wrapping_mul(P2))
            .rotate_left(31)
            .wrapping_mul(P1)
    };
    let word = |b: &[u8]| b.iter().rev().fold(0u64, |v, byte| v << 8 | u64::from(*byte));
    let mut rest = data;
    let mut hash = if data.len() >= 32 {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        while rest.len() >= 32 {
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = round(*lane, word(&rest[i * 8..i * 8 + 8]));
            }
            rest = &rest[32..];
        }
        let mut h = lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7))
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18));
        for lane in lanes {
            h = (h ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4);
        }
        h
    } else {
        seed.wrapping_add(P5)
    };
    hash = hash.wrapping_add(data.len() as u64);
    while rest.len() >= 8 {
        hash = (hash ^ round(0, word(&rest[..8])))
            .rotate_left(27)
            .wrapping_mul(P1)
            .wrapping_add(P4);
        rest = &rest[8..];
    }
    if rest.len() >= 4 {
        hash = (hash ^ word(&rest[..4]).wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
        rest = &rest[4..];
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5))
            .rotate_left(11)
            .wrapping_mul(P1);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(P2);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(P3);
    hash ^ (hash >> 32)
}

/// A table from hash to host index.
#[derive(Debug)]
pub enum HashTable {
    /// Ketama: points in ascending order.
    Ring(Vec<(u64, u32)>),
    /// Maglev: one entry a slot.
    Maglev(Vec<u32>),
}

impl HashTable {
    /// A ring with at least `min` and at most `max` points, shared by weight. `hosts` are names and weights.
    pub fn ring(hosts: &[(String, u32)], min: u64, max: u64) -> Self {
        let total: u64 = hosts.iter().map(|(_, w)| u64::from(*w)).sum::<u64>().max(1);
        let least = hosts.iter().map(|(_, w)| u64::from(*w)).min().unwrap_or(1).max(1);
        // Every host gets a whole number of points once the lightest has one.
        let fair = total.div_ceil(least);
        let size = min.max(fair).min(max.max(1)).min(1 << 20);
        let mut ring = Vec::new();
        for (index, (name, weight)) in hosts.iter().enumerate() {
            let points = (u64::from(*weight) * size).div_ceil(total).max(1);
            for i in 0..points {
                ring.push((xxh64(format!("{name}_{i}").as_bytes(), 0), index as u32));
            }
        }
        ring.sort_unstable();
        Self::Ring(ring)
    }

    /// A Maglev table of `size` (a prime) slots.
    pub fn maglev(hosts: &[(String, u32)], size: u64) -> Self {
        let size = size.clamp(1, 5_000_011);
        let heaviest = f64::from(hosts.iter().map(|(_, w)| *w).max().unwrap_or(1).max(1));
        let mut slots = vec![u32::MAX; size as usize];
        let mut builders: Vec<(u64, u64, u64, f64)> = hosts
            .iter()
            .map(|(name, _)| {
                let offset = xxh64(name.as_bytes(), 0) % size;
                let skip = xxh64(name.as_bytes(), 1) % size.saturating_sub(1).max(1) + 1;
                (offset, skip, 0, 0.0)
            })
            .collect();
        let mut filled = 0u64;
        while filled < size && !hosts.is_empty() {
            for (index, (offset, skip, next, credit)) in builders.iter_mut().enumerate() {
                *credit += f64::from(hosts[index].1.max(1)) / heaviest;
                if *credit < 1.0 {
                    continue;
                }
                *credit -= 1.0;
                loop {
                    let slot = ((*offset + *skip * *next) % size) as usize;
                    *next += 1;
                    if slots[slot] == u32::MAX {
                        slots[slot] = index as u32;
                        filled += 1;
                        break;
                    }
                }
                if filled == size {
                    break;
                }
            }
        }
        Self::Maglev(slots)
    }

    /// The index of the host for `hash`; later `attempt`s give other hosts where there are any.
    pub fn pick(&self, hash: u64, attempt: usize) -> Option<usize> {
        match self {
            Self::Ring(points) if !points.is_empty() => {
                let at = points.partition_point(|(p, _)| *p < hash);
                Some(points[(at + attempt) % points.len()].1 as usize)
            }
            Self::Maglev(slots) if !slots.is_empty() => {
                let hash = hash.wrapping_add(attempt as u64);
                Some(slots[(hash % slots.len() as u64) as usize] as usize)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh64_is_the_published_function() {
        assert_eq!(xxh64(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(xxh64(b"a", 0), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(xxh64(b"abc", 0), 0x44bc_2cf5_ad77_0999);
        assert_eq!(
            xxh64(
                b"Call me Ishmael. Some years ago--never mind how long precisely-",
                0
            ),
            0x02a2_e854_70d6_fd96
        );
    }

    /// Keys of the first three hosts that change hands when the fourth goes, of about 3000.
    fn moved(before: &HashTable, after: &HashTable) -> usize {
        (0..4000u64)
            .map(|key| xxh64(&key.to_le_bytes(), 0))
            .filter(|hash| {
                let (was, is) = (before.pick(*hash, 0).unwrap(), after.pick(*hash, 0).unwrap());
                was < 3 && was != is
            })
            .count()
    }

    #[test]
    fn a_lost_host_moves_hardly_more_than_its_own_keys() {
        let four: Vec<_> = (0..4).map(|i| (format!("10.0.0.{i}:80"), 1)).collect();
        let three = &four[..3];
        // With as many points a host as before, a ring moves nothing else at all.
        let ring = |hosts: &[(String, u32)]| HashTable::ring(hosts, 256 * hosts.len() as u64, 8192);
        assert_eq!(moved(&ring(&four), &ring(three)), 0);
        // Maglev trades a little of that for an even table.
        let disturbed = moved(&HashTable::maglev(&four, 65537), &HashTable::maglev(three, 65537));
        assert!(disturbed < 600, "{disturbed} of about 3000 keys moved");
    }

    #[test]
    fn weights_share_the_table() {
        let hosts = [("a".to_owned(), 3), ("b".to_owned(), 1)];
        let HashTable::Maglev(slots) = HashTable::maglev(&hosts, 65537) else {
            panic!("a Maglev table was asked for");
        };
        let a = slots.iter().filter(|s| **s == 0).count() as f64 / slots.len() as f64;
        assert!((a - 0.75).abs() < 0.01, "{a}");
    }
}
