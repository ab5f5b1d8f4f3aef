//! Both server sessions, as stories; the rules are those of Envoy's protocol document, whose sections the
//! tests name.

mod delta;
mod sotw;

use std::sync::Arc;

use super::*;
use crate::envoy::Any;
use crate::envoy::google::rpc;
use crate::envoy::service::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::{Resource, ResourceSet, Resources, TypeUrl};

fn resource(ty: &TypeUrl, name: &str, content: &str) -> Arc<Resource> {
    let mut value = vec![0x0a, name.len() as u8];
    value.extend(name.bytes());
    value.extend([0x12, content.len() as u8]);
    value.extend(content.bytes());
    Resource::packed(
        name,
        Any {
            type_url: ty.as_str().into(),
            value,
        },
    )
}

fn set(ty: &TypeUrl, members: &[(&str, &str)]) -> ResourceSet {
    members
        .iter()
        .map(|(name, content)| resource(ty, name, content))
        .collect()
}

/// One cluster, its endpoints, a listener and its routes for each name.
fn mesh(members: &[(&str, &str)]) -> Arc<Resources> {
    let mut resources = Resources::new();
    for ty in [TypeUrl::Cds, TypeUrl::Eds, TypeUrl::Lds, TypeUrl::Rds] {
        resources.insert(ty.clone(), set(&ty, members));
    }
    Arc::new(resources)
}

/// A delta client that writes down what it is sent.
pub struct Delta(DeltaSession);

impl Delta {
    pub fn with(resources: Arc<Resources>) -> Self {
        let mut session = DeltaSession::new(Limits::default());
        session.publish(resources);
        Self(session)
    }

    pub fn request(&mut self, ty: TypeUrl, change: impl FnOnce(&mut DeltaDiscoveryRequest)) -> Answer {
        let mut request = DeltaDiscoveryRequest {
            type_url: ty.as_str().into(),
            ..Default::default()
        };
        change(&mut request);
        self.0.request(request).unwrap()
    }

    pub fn subscribe(&mut self, ty: TypeUrl, names: &[&str]) {
        self.request(ty, |r| {
            r.resource_names_subscribe = names.iter().map(|n| n.to_string()).collect()
        });
    }

    pub fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.0.next_response().map(|(_, response)| response)
    }

    pub fn ack(&mut self, response: &DeltaDiscoveryResponse) -> Answer {
        self.request(response.type_url.as_str().into(), |r| {
            r.response_nonce = response.nonce.clone()
        })
    }

    pub fn nack(&mut self, response: &DeltaDiscoveryResponse, error: &str) -> Answer {
        self.request(response.type_url.as_str().into(), |r| {
            r.response_nonce = response.nonce.clone();
            r.error_detail = Some(rpc::Status {
                message: error.into(),
                ..Default::default()
            });
        })
    }

    /// Takes and accepts everything until nothing comes; gives `type +added -removed` for each response.
    pub fn settle(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(response) = self.next() {
            log.push(said(&response));
            self.ack(&response);
        }
        log
    }
}

fn said(response: &DeltaDiscoveryResponse) -> String {
    let mut text = TypeUrl::from(response.type_url.as_str()).short().to_owned();
    for r in &response.resources {
        text += &format!(" +{}", r.name);
    }
    for name in &response.removed_resources {
        text += &format!(" -{name}");
    }
    text
}

/// A state-of-the-world client.
pub struct Sotw(SotwSession);

impl Sotw {
    pub fn with(resources: Arc<Resources>) -> Self {
        let mut session = SotwSession::new(Limits::default());
        session.publish(resources);
        Self(session)
    }

    pub fn request(&mut self, ty: &TypeUrl, version: &str, nonce: &str, names: &[&str]) -> Answer {
        self.0.request(sotw_request(ty, version, nonce, names)).unwrap()
    }

    pub fn next(&mut self) -> Option<DiscoveryResponse> {
        self.0.next_response().map(|(_, response)| response)
    }

    pub fn ack(&mut self, response: &DiscoveryResponse, names: &[&str]) -> Answer {
        let ty = TypeUrl::from(response.type_url.as_str());
        self.request(&ty, &response.version_info, &response.nonce, names)
    }
}

fn sotw_request(ty: &TypeUrl, version: &str, nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ty.as_str().into(),
        version_info: version.into(),
        response_nonce: nonce.into(),
        resource_names: names.iter().map(|n| n.to_string()).collect(),
        ..Default::default()
    }
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    let name = |any: &Any| String::from_utf8(any.value[2..2 + any.value[1] as usize].to_vec()).unwrap();
    response.resources.iter().map(name).collect()
}

#[test]
fn hostile_requests_end_the_stream_and_nothing_else() {
    let limits = Limits {
        types: 2,
        names: 3,
        name_length: 80,
        ..Limits::default()
    };
    let request = |ty: &str, names: &[&str]| DeltaDiscoveryRequest {
        type_url: ty.into(),
        resource_names_subscribe: names.iter().map(|n| n.to_string()).collect(),
        ..Default::default()
    };
    let mut session = DeltaSession::new(limits.clone());
    assert_eq!(session.request(request("", &[])), Err(ProtocolError::NoType));
    assert!(session.request(request("t/a", &["1", "2"])).is_ok());
    assert!(matches!(
        session.request(request("t/a", &["3", "4"])),
        Err(ProtocolError::TooManyNames { .. })
    ));
    assert!(matches!(
        session.request(request("t/a", &[&"x".repeat(81)])),
        Err(ProtocolError::NameTooLong { .. })
    ));
    assert!(matches!(
        session.request(request(&"x".repeat(81), &[])),
        Err(ProtocolError::NameTooLong { .. })
    ));
    assert!(session.request(request("t/b", &[])).is_ok());
    assert_eq!(
        session.request(request("t/c", &[])),
        Err(ProtocolError::TooManyTypes(2))
    );
    let mut flood = request("t/b", &[]);
    flood.initial_resource_versions = (0..4).map(|i| (i.to_string(), String::new())).collect();
    assert!(matches!(
        session.request(flood),
        Err(ProtocolError::TooManyNames { .. })
    ));

    let mut session = SotwSession::new(limits);
    let too_many = sotw_request(&TypeUrl::Eds, "", "", &["1", "2", "3", "4"]);
    assert!(matches!(
        session.request(too_many),
        Err(ProtocolError::TooManyNames { .. })
    ));

    // Versions that no server gave, answers to nothing, an error as long as a book.
    let mut client = Delta::with(mesh(&[("a", "1")]));
    client.request(TypeUrl::Cds, |r| {
        r.response_nonce = "7".into();
        r.initial_resource_versions = [("a".to_owned(), "not a version".to_owned())].into();
    });
    let response = client.next().unwrap();
    assert_eq!(said(&response), "cds +a");
    let answer = client.nack(&response, &"é".repeat(5000));
    assert!(matches!(answer, Answer::Nack { error, .. } if error.len() <= 4096));
    assert_eq!(client.ack(&response), Answer::None, "answered already");
}
