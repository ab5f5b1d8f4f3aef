//! `AdmissionReview` (admission.k8s.io/v1, and v1beta1 of older API servers).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use isthmus_manifests::inject::Operation;
use isthmus_runtime::server::{self, Response};
use serde::Deserialize;
use serde_json::{Value, json};

/// Texts of warnings that one answer carries at most, in bytes: Kubernetes cuts what is longer.
const MOST_OF_WARNINGS: usize = 4096;

/// A question.
#[derive(Debug)]
pub struct Review {
    api_version: String,
    /// What is asked.
    pub request: Question,
}

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    uid: String,
    /// Which kind of object.
    #[serde(default)]
    pub kind: GroupVersionKind,
    /// Which resource; metrics name it.
    #[serde(default)]
    pub resource: Resource,
    /// Which part of it, `status` for instance.
    #[serde(default)]
    pub sub_resource: String,
    /// The object's name; empty when the API server makes it.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// CREATE, UPDATE, DELETE, CONNECT.
    #[serde(default)]
    pub operation: String,
    /// The object; null when it is deleted.
    #[serde(default)]
    pub object: Value,
    /// The object as it was.
    #[serde(default)]
    pub old_object: Value,
}

/// A kind of object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroupVersionKind {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

/// A resource.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// As in URLs.
    pub resource: String,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Admission {
    /// Why not; `None` is yes.
    pub refusal: Option<String>,
    /// What `kubectl` prints.
    pub warnings: Vec<String>,
    /// What is to be changed.
    pub patch: Vec<Operation>,
}

/// What is no question. It is answered with 400, and the API server goes by the webhook's failure policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an AdmissionReview: {0}")]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn answer(&self) -> Response {
        tracing::warn!("{self}");
        server::text(StatusCode::BAD_REQUEST, format!("{self}\n"))
    }
}

impl Review {
    /// Reads a question.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Envelope {
            #[serde(default)]
            api_version: String,
            #[serde(default)]
            kind: String,
            request: Option<Question>,
        }
        let envelope: Envelope = serde_json::from_slice(body).map_err(|e| Malformed(e.to_string()))?;
        if envelope.kind != "AdmissionReview" {
            return Err(Malformed(format!("its kind is {:?}", envelope.kind)));
        }
        if !matches!(
            envelope.api_version.as_str(),
            "admission.k8s.io/v1" | "admission.k8s.io/v1beta1"
        ) {
            return Err(Malformed(format!("its apiVersion is {:?}", envelope.api_version)));
        }
        let request = envelope
            .request
            .ok_or_else(|| Malformed("it has no request".to_owned()))?;
        Ok(Self {
            api_version: envelope.api_version,
            request,
        })
    }

    pub(super) fn answer(&self, admission: &Admission) -> Response {
        let mut response = json!({ "uid": self.request.uid, "allowed": admission.refusal.is_none() });
        if let Some(message) = &admission.refusal {
            response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
        } else if !admission.patch.is_empty() {
            let patch: Value = admission.patch.iter().map(Operation::to_json).collect();
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(patch.to_string()));
        }
        let mut left = MOST_OF_WARNINGS;
        let warnings: Vec<&String> = (admission.warnings.iter())
            .take_while(|warning| {
                let fits = warning.len() <= left;
                left = left.saturating_sub(warning.len());
                fits
            })
            .collect();
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
        server::json(&json!({
            "apiVersion": self.api_version, "kind": "AdmissionReview", "response": response
        }))
    }
}
