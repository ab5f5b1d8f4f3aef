//! From `lb_policy`, and from the policies that Envoy's newer `load_balancing_policy` names.

use isthmus_xds::any;
use isthmus_xds::envoy::cluster::{self as e, cluster::LbConfig, cluster::LbPolicy};
use isthmus_xds::envoy::load_balancing as lb;
use isthmus_xds::envoy::pb::envoy::extensions::load_balancing_policies as policies;
use isthmus_xds::envoy::{Any, core};

use super::Balancer;
use crate::config::field::{number_or, variant};
use crate::config::refusal::{At, Refusal, refuse_set};

const RING_MIN: u64 = 1024;
const RING_MAX: u64 = 8 << 20;
const MAGLEV: u64 = 65537;
const MAGLEV_MAX: u64 = 5_000_011;

/// The balancer, and whether the policy shares by locality weights.
pub fn wire(c: &e::Cluster) -> Result<(Balancer, bool), Refusal> {
    if let Some(p) = c.load_balancing_policy.as_ref() {
        return extension(p).at("load_balancing_policy");
    }
    let config = c.lb_config.as_ref();
    let balancer = match variant::<LbPolicy>("lb_policy", c.lb_policy)? {
        LbPolicy::RoundRobin => {
            if let Some(LbConfig::RoundRobinLbConfig(r)) = config {
                refuse_set!(r; slow_start_config);
            }
            Balancer::RoundRobin
        }
        LbPolicy::LeastRequest => {
            let mut choices = 2;
            if let Some(LbConfig::LeastRequestLbConfig(l)) = config {
                refuse_set!(l; slow_start_config);
                choices = number_or(&l.choice_count, 2);
            }
            least_request(choices)?
        }
        LbPolicy::Random => Balancer::Random,
        LbPolicy::RingHash => match config {
            Some(LbConfig::RingHashLbConfig(r)) => {
                use e::cluster::ring_hash_lb_config::HashFunction;
                if variant::<HashFunction>("ring_hash_lb_config.hash_function", r.hash_function)?
                    != HashFunction::XxHash
                {
                    return Err(Refusal::unsupported("ring_hash_lb_config.hash_function"));
                }
                ring(
                    r.minimum_ring_size.as_ref().map_or(RING_MIN, |v| v.value),
                    r.maximum_ring_size.as_ref().map_or(RING_MAX, |v| v.value),
                )?
            }
            _ => ring(RING_MIN, RING_MAX)?,
        },
        LbPolicy::Maglev => match config {
            Some(LbConfig::MaglevLbConfig(m)) => maglev(m.table_size.as_ref().map_or(MAGLEV, |v| v.value))?,
            _ => maglev(MAGLEV)?,
        },
        LbPolicy::ClusterProvided => Balancer::Provided,
        LbPolicy::LoadBalancingPolicyConfig => {
            return Err(Refusal::new(
                "load_balancing_policy",
                "is required by lb_policy LOAD_BALANCING_POLICY_CONFIG",
            ));
        }
    };
    Ok((balancer, false))
}

/// The first policy of the list that is known, as Envoy does it.
fn extension(p: &e::LoadBalancingPolicy) -> Result<(Balancer, bool), Refusal> {
    let mut seen = Vec::new();
    for (i, policy) in p.policies.iter().enumerate() {
        let Some(config) = policy
            .typed_extension_config
            .as_ref()
            .and_then(|t: &core::TypedExtensionConfig| t.typed_config.as_ref())
        else {
            return Err(Refusal::new("typed_extension_config", "is required and not set")).nth("policies", i);
        };
        if let Some(known) = named(config).nth("policies", i)? {
            return Ok(known);
        }
        seen.push(any::full_name(&config.type_url).to_owned());
    }
    Err(Refusal::new(
        "policies",
        format!("none of {seen:?} is known here"),
    ))
}

fn named(config: &Any) -> Result<Option<(Balancer, bool)>, Refusal> {
    fn read<M: prost::Message + prost::Name + Default>(config: &Any) -> Result<M, Refusal> {
        any::unpack(config).map_err(|e| Refusal::new("typed_config", e.to_string()))
    }
    if any::is::<policies::wrr_locality::v3::WrrLocality>(config) {
        let w: policies::wrr_locality::v3::WrrLocality = read(config)?;
        let inner = w
            .endpoint_picking_policy
            .as_ref()
            .ok_or_else(|| Refusal::new("endpoint_picking_policy", "is required and not set"))?;
        return extension(inner)
            .at("endpoint_picking_policy")
            .map(|(b, _)| Some((b, true)));
    }
    let balancer = if any::is::<lb::round_robin::RoundRobin>(config) {
        let r: lb::round_robin::RoundRobin = read(config)?;
        refuse_set!(r; slow_start_config);
        Balancer::RoundRobin
    } else if any::is::<lb::least_request::LeastRequest>(config) {
        let l: lb::least_request::LeastRequest = read(config)?;
        refuse_set!(l; slow_start_config);
        least_request(number_or(&l.choice_count, 2))?
    } else if any::is::<lb::random::Random>(config) {
        Balancer::Random
    } else if any::is::<lb::ring_hash::RingHash>(config) {
        let r: lb::ring_hash::RingHash = read(config)?;
        ring(
            r.minimum_ring_size.as_ref().map_or(RING_MIN, |v| v.value),
            r.maximum_ring_size.as_ref().map_or(RING_MAX, |v| v.value),
        )?
    } else if any::is::<lb::maglev::Maglev>(config) {
        let m: lb::maglev::Maglev = read(config)?;
        maglev(m.table_size.as_ref().map_or(MAGLEV, |v| v.value))?
    } else if any::is::<policies::cluster_provided::v3::ClusterProvided>(config) {
        Balancer::Provided
    } else {
        return Ok(None);
    };
    Ok(Some((balancer, false)))
}

fn least_request(choices: u32) -> Result<Balancer, Refusal> {
    if choices < 2 {
        return Err(Refusal::new(
            "least_request_lb_config.choice_count",
            format!("{choices} must be at least 2"),
        ));
    }
    Ok(Balancer::LeastRequest { choices })
}

fn ring(min: u64, max: u64) -> Result<Balancer, Refusal> {
    if min == 0 || min > max || max > RING_MAX {
        return Err(Refusal::new(
            "ring_hash_lb_config",
            format!("{min} to {max} entries: must ascend and lie within 1 to {RING_MAX}"),
        ));
    }
    Ok(Balancer::RingHash { min, max })
}

fn maglev(table: u64) -> Result<Balancer, Refusal> {
    if !(2..=MAGLEV_MAX).contains(&table) || !is_prime(table) {
        return Err(Refusal::new(
            "maglev_lb_config.table_size",
            format!("{table} must be a prime number of at most {MAGLEV_MAX}"),
        ));
    }
    Ok(Balancer::Maglev { table })
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}
