//! An authority that is written as a Secret, exchanged, and broken.

use std::collections::BTreeMap;

use isthmus_api::Kind;
use isthmus_pki::authority::{IntermediateRequest, RootRequest};
use serde_json::json;

use super::*;
use crate::ingest::store::Store;
use crate::member::PeerState;
use crate::mesh::Identity;
use crate::peering::Peers;
use crate::snapshot::builder::{Builder, Dirty};

fn root() -> Authority {
    let request = RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    };
    Authority::create_root(&request).unwrap()
}

fn intermediate(root: &Authority) -> Authority {
    let request = IntermediateRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..IntermediateRequest::new("us".into())
    };
    root.create_intermediate(&request).unwrap()
}

fn files(authority: &Authority) -> BTreeMap<&'static str, String> {
    let all = isthmus_pki::files::cacerts(authority);
    all.into_iter()
        .map(|(name, text)| (name, text.to_string()))
        .collect()
}

/// A control plane without sockets, told of one Secret after the other.
struct Story {
    plane: ControlPlane,
    store: Store,
    builder: Builder,
}

impl Story {
    fn new() -> Self {
        let identity = Identity {
            cluster: "us".into(),
            network: "us-net".into(),
            mesh_id: String::new(),
            trust_domain: None,
            root_namespace: "istio-system".into(),
        };
        Self {
            plane: ControlPlane::new(),
            store: Store::default(),
            builder: Builder::new(identity, Peers::new(), None),
        }
    }

    fn write(&mut self, files: &BTreeMap<&'static str, String>) -> Vec<String> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "cacerts", "namespace": "istio-system"}, "stringData": files,
        });
        let parsed = isthmus_api::parse(&secret.to_string(), "cacerts.yaml");
        for object in parsed.objects {
            self.store.apply(isthmus_api::Change::Put(object));
        }
        let dirty = Dirty {
            kinds: [Kind::Secret].into(),
            peers: false,
        };
        let peers = Arc::new(PeerState::default());
        let snapshot = self
            .builder
            .build(&self.store, &peers, &Default::default(), &dirty);
        self.plane.publish(&snapshot);
        snapshot.findings.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn a_secret_signs_is_exchanged_while_running_and_stays_when_the_next_is_broken() {
    let (root, mut story) = (root(), Story::new());
    let (first, second) = (intermediate(&root), intermediate(&root));
    let places = Places {
        directory: None,
        state_dir: PathBuf::from("/nonexistent"),
    };
    let domain: TrustDomain = "corp.local".parse().unwrap();

    assert_eq!(story.write(&files(&first)), [""; 0]);
    let loaded = load(&places, story.plane.snapshot().as_deref(), &domain).unwrap();
    assert_eq!(
        loaded.certificate().fingerprint(),
        first.certificate().fingerprint()
    );
    let signing = Arc::new(ArcSwap::from_pointee(loaded));
    let (roots, mut trusted) = tokio::sync::watch::channel(Arc::<str>::from(""));
    let renew = Arc::new(tokio::sync::Notify::new());
    let following = tokio::spawn(follow(
        places.clone(),
        story.plane.clone(),
        Arc::clone(&signing),
        Some(roots),
        Arc::clone(&renew),
    ));
    trusted
        .wait_for(|pem| **pem == *first.roots().to_pem())
        .await
        .unwrap();

    story.write(&files(&second));
    let taken_up = async {
        while signing.load().certificate().fingerprint() != second.certificate().fingerprint() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken_up)
        .await
        .unwrap();
    let told = tokio::time::timeout(Duration::from_secs(30), renew.notified()).await;
    assert!(told.is_ok(), "what the old authority signed is to be renewed");

    // The key of the first with the certificate of the second.
    let mut broken = files(&second);
    broken.insert("ca-key.pem", files(&first)["ca-key.pem"].clone());
    let found = story.write(&broken);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("cacerts.yaml:1: error [ISM0107] (Secret istio-system/cacerts)")
            && found[0].contains("does not belong to the certificate")
            && found[0].ends_with("write the files that `isthmus certs intermediate` makes"),
        "{found:?}"
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        signing.load().certificate().fingerprint(),
        second.certificate().fingerprint()
    );

    // At a start nothing signs in its place: another root would split the mesh.
    let refused = load(&places, story.plane.snapshot().as_deref(), &domain).unwrap_err();
    assert!(refused.to_string().contains("cacerts.yaml:1"), "{refused}");
    following.abort();
}

#[test]
fn a_directory_signs_until_a_secret_is_written() {
    let (root, mut story) = (root(), Story::new());
    let (mounted, written) = (intermediate(&root), intermediate(&root));
    let dir = tempfile::tempdir().unwrap();
    isthmus_pki::files::write_cacerts(dir.path(), &mounted, false).unwrap();
    let places = Places {
        directory: Some(dir.path().to_owned()),
        state_dir: PathBuf::from("/nonexistent"),
    };
    let domain: TrustDomain = "corp.local".parse().unwrap();
    let signs = |story: &Story| {
        let loaded = load(&places, story.plane.snapshot().as_deref(), &domain).unwrap();
        loaded.certificate().fingerprint()
    };
    assert_eq!(signs(&story), mounted.certificate().fingerprint());
    story.write(&files(&written));
    assert_eq!(signs(&story), written.certificate().fingerprint());
    story.write(&BTreeMap::from([("ca-cert.pem", "no certificate".to_owned())]));
    assert_eq!(signs(&story), mounted.certificate().fingerprint());
}
