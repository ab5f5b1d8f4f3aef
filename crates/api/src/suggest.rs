//! "Did you mean": the known name that is nearest to what was written.

/// The nearest of `known` to `written`, if one is near enough to be worth saying.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer names may be a little further off; nothing is like a one-letter name.
    let allowed = match written.chars().count() {
        0..=1 => return None,
        2..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    if written.len() > 64 {
        return None;
    }
    let lower = written.to_ascii_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(d, _)| *d <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Edits that make one of the other: insertion, deletion, replacement, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let known = ["hosts", "http", "gateways", "exportTo", "trafficPolicy"];
        assert_eq!(nearest("host", known), Some("hosts"));
        assert_eq!(nearest("gatewyas", known), Some("gateways"));
        assert_eq!(nearest("exportto", known), Some("exportTo"));
        assert_eq!(nearest("traficPolicy", known), Some("trafficPolicy"));
        assert_eq!(nearest("replicas", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
