//! Which host takes the next request: priority, then locality, then the cluster's policy.
//!
//! A [`View`] is computed once for a state of health and kept until health or membership changes.
//!
//! ```text
//!   hosts ─▶ priorities (overprovisioned share of each) ─▶ localities (by weight) ─▶ policy ─▶ host
//! ```

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Instant;

use crate::config::cluster::{Balancer, Cluster};
use crate::config::endpoint::Health;

use super::hash::HashTable;
use super::host::Host;
use super::rng::Rng;

/// Hosts of one locality in one priority.
#[derive(Debug)]
pub struct LocalityHosts {
    /// `load_balancing_weight`, 0 when not given.
    pub weight: u32,
    /// Its hosts.
    pub hosts: Vec<Rc<Host>>,
}

/// All hosts of a cluster, by priority (index 0 is taken first).
#[derive(Debug, Default)]
pub struct HostSet {
    /// Localities by priority.
    pub priorities: Vec<Vec<LocalityHosts>>,
    /// Percent, 140 unless said otherwise.
    pub overprovisioning: u32,
}

impl HostSet {
    /// Every host, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Host>> {
        self.priorities.iter().flatten().flat_map(|l| &l.hosts)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// What the pick depends on besides the cluster.
#[derive(Debug, Default)]
pub struct PickContext<'a> {
    /// Hash of the request, for consistent hashing.
    pub hash: Option<u64>,
    /// Hosts that failed this request already.
    pub tried: &'a [Rc<Host>],
    /// Original destination, for clusters that go there.
    pub original: Option<std::net::SocketAddr>,
}

impl PickContext<'_> {
    fn is_fresh(&self, host: &Rc<Host>) -> bool {
        !self.tried.iter().any(|t| Rc::ptr_eq(t, host))
    }
}

/// The usable hosts of one state of health.
#[derive(Debug)]
pub struct View {
    /// Recompute then: somebody's ejection ends.
    pub valid_until: Option<Instant>,
    /// Cumulative percent by priority.
    loads: Vec<(u32, usize)>,
    priorities: Vec<Vec<Group>>,
}

/// Hosts the policy picks from.
#[derive(Debug)]
struct Group {
    /// Effective weight of the locality; 1 without locality weights.
    share: f64,
    hosts: Vec<Rc<Host>>,
    /// Cumulative weights; `None` when all are equal.
    cumulative: Option<Vec<u64>>,
    cursor: Cell<usize>,
    schedule: RefCell<BinaryHeap<Turn>>,
    table: OnceCell<HashTable>,
}

/// A host's next turn in weighted round robin (earliest deadline first).
#[derive(Debug, PartialEq)]
struct Turn {
    deadline: f64,
    index: usize,
}

impl Eq for Turn {}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl View {
    /// Computes who is usable at `now`.
    pub fn new(set: &HostSet, cluster: &Cluster, now: Instant, rng: &Rng) -> Self {
        let overprovisioning = u64::from(set.overprovisioning.max(100));
        let mut healths = Vec::new();
        let mut priorities = Vec::new();
        let mut valid_until: Option<Instant> = None;
        for host in set.iter() {
            if let Some(until) = host.outlier.returns_at(now) {
                valid_until = Some(valid_until.map_or(until, |v| v.min(until)));
            }
        }
        // Slowness only prefers others: where nobody is quick, the slow ones are all there is.
        let patient = !set.iter().any(|h| h.is_available(now));
        let available = |h: &Host| {
            if patient {
                h.control_plane_health() == Health::Healthy && !h.outlier.is_ejected(now)
            } else {
                h.is_available(now)
            }
        };
        for localities in &set.priorities {
            let total: usize = localities.iter().map(|l| l.hosts.len()).sum();
            let mut usable: Vec<Vec<Rc<Host>>> = select(localities, available);
            let mut healthy: usize = usable.iter().map(Vec::len).sum();
            if healthy == 0 {
                // Degraded hosts stand in once no healthy one is left.
                usable = select(localities, |h| {
                    h.control_plane_health() == Health::Degraded && !h.outlier.is_ejected(now)
                });
                healthy = usable.iter().map(Vec::len).sum();
            }
            let health = if total == 0 {
                0
            } else {
                (overprovisioning * healthy as u64 / total as u64).min(100) as u32
            };
            healths.push(health);
            priorities.push((total, healthy, usable));
        }
        let sum: u32 = healths.iter().sum();
        if sum < 100 && cluster.panic_threshold > 0.0 {
            for (priority, localities) in priorities.iter_mut().zip(&set.priorities) {
                let (total, healthy, usable) = priority;
                if *total > 0 && (*healthy as f64) * 100.0 / (*total as f64) < cluster.panic_threshold {
                    *usable = select(localities, |_| true);
                }
            }
        }
        let loads = loads(
            &healths,
            &priorities
                .iter()
                .map(|p| p.2.iter().any(|l| !l.is_empty()))
                .collect::<Vec<_>>(),
        );
        let priorities = priorities
            .into_iter()
            .zip(&set.priorities)
            .map(|((_, _, usable), localities)| groups(usable, localities, cluster, overprovisioning, rng))
            .collect();
        Self {
            valid_until,
            loads,
            priorities,
        }
    }

    /// Picks a host that has not been tried, if there is one.
    pub fn pick(&self, cluster: &Cluster, context: &PickContext<'_>, rng: &Rng) -> Option<Rc<Host>> {
        let percent = match context.hash {
            Some(h)
                if matches!(
                    cluster.balancer,
                    Balancer::RingHash { .. } | Balancer::Maglev { .. }
                ) =>
            {
                (h % 100) as u32
            }
            _ => rng.below(100) as u32,
        };
        let at = self.loads.partition_point(|(upto, _)| *upto <= percent);
        let (_, priority) = self.loads.get(at).or_else(|| self.loads.last())?;
        let first = self.pick_in(*priority, cluster, context, rng);
        if context.tried.is_empty() {
            return first;
        }
        match first {
            Some(h) if context.is_fresh(&h) => return Some(h),
            _ => {}
        }
        for _ in 0..2 {
            if let Some(h) = self
                .pick_in(*priority, cluster, context, rng)
                .filter(|h| context.is_fresh(h))
            {
                return Some(h);
            }
        }
        // Chance did not help: the first untried host, its own priority first, then those that follow it.
        let order = (*priority..self.priorities.len()).chain(0..*priority);
        for p in order {
            let hosts: Vec<&Rc<Host>> = self.priorities[p]
                .iter()
                .flat_map(|g| &g.hosts)
                .filter(|h| context.is_fresh(h))
                .collect();
            if !hosts.is_empty() {
                return Some(hosts[rng.below(hosts.len() as u64) as usize].clone());
            }
        }
        first
    }

    fn pick_in(
        &self,
        priority: usize,
        cluster: &Cluster,
        context: &PickContext<'_>,
        rng: &Rng,
    ) -> Option<Rc<Host>> {
        let groups = self.priorities.get(priority)?;
        let group = match groups.as_slice() {
            [] => return None,
            [one] => one,
            several => {
                let total: f64 = several.iter().map(|g| g.share).sum();
                let mut point = rng.fraction() * total;
                several
                    .iter()
                    .find(|g| {
                        point -= g.share;
                        point < 0.0
                    })
                    .or_else(|| several.last())?
            }
        };
        group.pick(cluster, context, rng)
    }
}

impl Group {
    fn new(share: f64, hosts: Vec<Rc<Host>>, rng: &Rng) -> Self {
        let equal = hosts.windows(2).all(|w| w[0].weight() == w[1].weight());
        let cumulative = (!equal).then(|| {
            hosts
                .iter()
                .scan(0u64, |sum, h| {
                    *sum += u64::from(h.weight());
                    Some(*sum)
                })
                .collect()
        });
        let schedule = if equal {
            BinaryHeap::new()
        } else {
            // A random phase, so that workers and reloads do not all begin with the same host.
            hosts
                .iter()
                .enumerate()
                .map(|(index, h)| Turn {
                    deadline: (1.0 - rng.fraction()) / f64::from(h.weight()),
                    index,
                })
                .collect()
        };
        Self {
            share,
            cursor: Cell::new(rng.below(hosts.len().max(1) as u64) as usize),
            hosts,
            cumulative,
            schedule: RefCell::new(schedule),
            table: OnceCell::new(),
        }
    }

    fn pick(&self, cluster: &Cluster, context: &PickContext<'_>, rng: &Rng) -> Option<Rc<Host>> {
        match self.hosts.as_slice() {
            [] => return None,
            [one] => return Some(one.clone()),
            _ => {}
        }
        let index = match cluster.balancer {
            Balancer::RoundRobin => self.round_robin(),
            Balancer::Random | Balancer::Provided => self.random(rng),
            Balancer::LeastRequest { choices } => self.least_request(choices, rng),
            Balancer::RingHash { min, max } => match context.hash {
                Some(hash) => self
                    .table
                    .get_or_init(|| HashTable::ring(&self.names(), min, max))
                    .pick(hash, context.tried.len())?,
                None => self.random(rng),
            },
            Balancer::Maglev { table } => match context.hash {
                Some(hash) => self
                    .table
                    .get_or_init(|| HashTable::maglev(&self.names(), table))
                    .pick(hash, context.tried.len())?,
                None => self.random(rng),
            },
        };
        self.hosts.get(index).cloned()
    }

    fn names(&self) -> Vec<(String, u32)> {
        self.hosts.iter().map(|h| (h.to_string(), h.weight())).collect()
    }

    fn random(&self, rng: &Rng) -> usize {
        match &self.cumulative {
            None => rng.below(self.hosts.len() as u64) as usize,
            Some(cumulative) => {
                let total = cumulative.last().copied().unwrap_or(1).max(1);
                let point = rng.below(total);
                cumulative.partition_point(|c| *c <= point)
            }
        }
    }

    fn round_robin(&self) -> usize {
        if self.cumulative.is_none() {
            let at = self.cursor.get();
            self.cursor.set((at + 1) % self.hosts.len());
            return at % self.hosts.len();
        }
        let mut schedule = self.schedule.borrow_mut();
        let Some(turn) = schedule.pop() else { return 0 };
        schedule.push(Turn {
            deadline: turn.deadline + 1.0 / f64::from(self.hosts[turn.index].weight()),
            index: turn.index,
        });
        turn.index
    }

    /// Random choices by weight; the least loaded for its weight is taken.
    fn least_request(&self, choices: u32, rng: &Rng) -> usize {
        let mut best = self.random(rng);
        for _ in 1..choices.max(2) {
            let mut other = self.random(rng);
            if other == best {
                // Equal picks are no choice: take the neighbour.
                other = (other + 1) % self.hosts.len();
                if self.cumulative.is_some() {
                    // A neighbour taken by position would get more than its weight.
                    continue;
                }
            }
            let load = |i: usize| {
                let host: &Host = &self.hosts[i];
                match self.cumulative {
                    None => f64::from(host.active.get()),
                    Some(_) => f64::from(host.active.get()) / f64::from(host.weight()),
                }
            };
            if load(other) < load(best) {
                best = other;
            }
        }
        best
    }
}

fn select(localities: &[LocalityHosts], usable: impl Fn(&Host) -> bool) -> Vec<Vec<Rc<Host>>> {
    localities
        .iter()
        .map(|l| l.hosts.iter().filter(|h| usable(h)).cloned().collect())
        .collect()
}

/// Envoy's priority load: each takes its health in percent of what is left; short of 100 in all, shares
/// grow in proportion. Without health anywhere, whoever has usable hosts (panic) shares alike.
fn loads(healths: &[u32], usable: &[bool]) -> Vec<(u32, usize)> {
    let total: u32 = healths.iter().sum::<u32>().min(100);
    let mut out = Vec::new();
    if total == 0 {
        if let Some(first) = usable.iter().position(|u| *u) {
            out.push((100, first));
        }
        return out;
    }
    let mut left = 100u32;
    let mut upto = 0;
    for (priority, health) in healths.iter().enumerate() {
        let share = (health * 100 / total).min(left);
        left -= share;
        if share > 0 {
            upto += share;
            out.push((upto, priority));
        }
    }
    if let Some(last) = out.last_mut() {
        last.0 = 100;
    }
    out
}

fn groups(
    usable: Vec<Vec<Rc<Host>>>,
    localities: &[LocalityHosts],
    cluster: &Cluster,
    overprovisioning: u64,
    rng: &Rng,
) -> Vec<Group> {
    let by_locality = cluster.locality_weighted && localities.iter().any(|l| l.weight > 0);
    if !by_locality {
        let hosts: Vec<_> = usable.into_iter().flatten().collect();
        return if hosts.is_empty() {
            Vec::new()
        } else {
            vec![Group::new(1.0, hosts, rng)]
        };
    }
    usable
        .into_iter()
        .zip(localities)
        .filter(|(hosts, l)| !hosts.is_empty() && l.weight > 0)
        .map(|(hosts, l)| {
            let available = overprovisioning as f64 * hosts.len() as f64 / (100.0 * l.hosts.len() as f64);
            Group::new(f64::from(l.weight) * available.min(1.0), hosts, rng)
        })
        .collect()
}
