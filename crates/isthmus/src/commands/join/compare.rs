//! Whether two clusters can be one mesh, and what is to be done for it.

use super::member::Member;

/// Something in the way, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What is wrong.
    pub what: String,
    /// The command or change that mends it.
    pub remedy: String,
}

/// What has to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Both need an authority from one root, since neither was given one.
    pub common_root: bool,
    /// What is not wrong and yet worth knowing.
    pub notes: Vec<String>,
}

/// Compares two clusters.
///
/// # Errors
/// Everything that is in the way.
pub fn compare(a: &Member, b: &Member) -> Result<Plan, Vec<Obstacle>> {
    let mut plan = Plan::default();
    let mut obstacles = Vec::new();
    let mut blocked = |what: String, remedy: String| obstacles.push(Obstacle { what, remedy });
    for member in [a, b] {
        let at = &member.context;
        if !member.installed {
            blocked(
                format!("{at}: no control plane is installed"),
                format!("isthmus install --context {at} -y --set values.global.network={at}-net"),
            );
            continue;
        }
        if member.ready.is_empty() {
            blocked(
                format!("{at}: no pod of the control plane is ready"),
                format!("kubectl --context {at} -n istio-system describe pods -l app=istiod"),
            );
        }
        if member.cluster.is_empty() {
            blocked(
                format!("{at}: the cluster has no name in the mesh"),
                format!(
                    "isthmus install --context {at} -y --set values.global.multiCluster.clusterName={at}"
                ),
            );
        }
        if member.network.is_empty() {
            blocked(
                format!("{at}: the cluster's network has no name"),
                format!("isthmus install --context {at} -y --set values.global.network={at}-net"),
            );
        } else if member.gateways.is_empty() {
            let why = match member.without_address.as_slice() {
                [] => format!(
                    "no Service is labelled topology.istio.io/network={}",
                    member.network
                ),
                all => all.join("; "),
            };
            blocked(
                format!("{at}: no gateway takes traffic from other networks: {why}"),
                format!(
                    "install an east-west gateway (docs: Join two clusters), and wait for its address: kubectl --context \
                     {at} -n istio-system get service istio-eastwestgateway"
                ),
            );
        }
    }
    if a.installed && b.installed {
        both(a, b, &mut plan, &mut blocked);
    }
    if obstacles.is_empty() {
        Ok(plan)
    } else {
        Err(obstacles)
    }
}

fn both(a: &Member, b: &Member, plan: &mut Plan, blocked: &mut impl FnMut(String, String)) {
    let set =
        |at: &Member, path: &str| format!("isthmus install --context {} -y --set {path}=NAME", at.context);
    if !a.cluster.is_empty() && a.cluster == b.cluster {
        blocked(
            format!("both clusters call themselves {}", a.cluster),
            set(b, "values.global.multiCluster.clusterName"),
        );
    }
    if !a.network.is_empty() && a.network == b.network {
        blocked(
            format!(
                "both clusters say that they are on network {}: pods would be expected to reach each other directly",
                a.network
            ),
            set(b, "values.global.network"),
        );
    }
    if a.mesh != b.mesh {
        blocked(
            format!(
                "the meshes differ: {} is of {:?}, {} of {:?}",
                a.context, a.mesh, b.context, b.mesh
            ),
            set(b, "values.global.meshID"),
        );
    }
    if a.trust_domain != b.trust_domain {
        blocked(
            format!(
                "the trust domains differ: {} has {}, {} has {}",
                a.context, a.trust_domain, b.context, b.trust_domain
            ),
            set(b, "meshConfig.trustDomain"),
        );
    }
    if a.version != b.version {
        plan.notes.push(format!(
            "{} runs version {}, {} runs {}",
            a.context, a.version, b.context, b.version
        ));
    }
    let common = a.roots.intersection(&b.roots).next().is_some();
    if common && a.given_authority && b.given_authority {
        return;
    }
    match (a.given_authority, b.given_authority) {
        (false, false) => plan.common_root = true,
        (true, true) => blocked(
            format!(
                "the clusters have different roots: {} trusts {}, {} trusts {}",
                a.context,
                some(a),
                b.context,
                some(b)
            ),
            "make both intermediates from one root (isthmus certs root; isthmus certs intermediate CLUSTER... -o yaml | \
             kubectl apply -f -)"
                .to_owned(),
        ),
        (given, _) => {
            let (has, lacks) = if given { (a, b) } else { (b, a) };
            blocked(
                format!(
                    "{} has an authority of a root whose key is not here, {} has none",
                    has.context, lacks.context
                ),
                format!(
                    "where the root's key is: isthmus certs intermediate {} -o yaml | kubectl --context {} apply -f -",
                    lacks.cluster, lacks.context
                ),
            );
        }
    }
}

fn some(member: &Member) -> String {
    match member.roots.len() {
        0 => "none yet".to_owned(),
        _ => member
            .roots
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member {
            context: name.to_owned(),
            installed: true,
            ready: vec!["istiod-1".to_owned()],
            version: "0.1.0".to_owned(),
            cluster: name.to_owned(),
            network: format!("{name}-net"),
            mesh: "mesh1".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            roots: [format!("root of {name}")].into(),
            given_authority: false,
            gateways: vec!["203.0.113.7:15443".to_owned()],
            without_address: Vec::new(),
        }
    }

    fn obstacles(a: &Member, b: &Member) -> Vec<String> {
        compare(a, b).unwrap_err().into_iter().map(|o| o.what).collect()
    }

    #[test]
    fn fresh_clusters_get_one_root() {
        let plan = compare(&member("us"), &member("eu")).unwrap();
        assert!(plan.common_root && plan.notes.is_empty());
    }

    #[test]
    fn clusters_of_one_root_are_joined_as_they_are() {
        let (mut us, mut eu) = (member("us"), member("eu"));
        for member in [&mut us, &mut eu] {
            member.roots = ["one".to_owned()].into();
            member.given_authority = true;
        }
        eu.version = "0.2.0".to_owned();
        let plan = compare(&us, &eu).unwrap();
        assert!(!plan.common_root);
        assert_eq!(plan.notes, ["us runs version 0.1.0, eu runs 0.2.0"]);
    }

    #[test]
    fn everything_in_the_way_is_named_at_once() {
        let (us, mut eu) = (member("us"), member("eu"));
        eu.cluster = "us".to_owned();
        eu.network = "us-net".to_owned();
        eu.mesh = "other".to_owned();
        eu.trust_domain = "corp.local".to_owned();
        eu.given_authority = true;
        eu.gateways.clear();
        let found = obstacles(&us, &eu);
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(found[0].contains("no Service is labelled topology.istio.io/network=us-net"));
        assert!(found[5].contains("eu has an authority of a root whose key is not here, us has none"));
        let missing = obstacles(
            &us,
            &Member {
                context: "eu".to_owned(),
                ..Member::default()
            },
        );
        assert_eq!(missing, ["eu: no control plane is installed"]);
    }

    #[test]
    fn different_roots_are_shown_by_their_fingerprints() {
        let (mut us, mut eu) = (member("us"), member("eu"));
        us.given_authority = true;
        eu.given_authority = true;
        let found = obstacles(&us, &eu);
        assert_eq!(
            found,
            ["the clusters have different roots: us trusts root of us, eu trusts root of eu"]
        );
    }
}
