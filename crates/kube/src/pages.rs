//! What a person's command reads besides objects: lists by label, and the pages of pods.

use serde_json::Value;

use crate::connect::Cluster;
use crate::rest::{Call, RequestError};

impl Cluster {
    /// Objects of a collection (`/api/v1/services`, `/api/v1/namespaces/istio-system/pods`) with these labels.
    ///
    /// # Errors
    /// The API server is away or refuses.
    pub async fn labelled(&self, collection: &str, selector: &str) -> Result<Vec<Value>, RequestError> {
        let path = format!("{collection}?labelSelector={}", encoded(selector));
        let list = self.get(&path).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// A page that a pod serves over plain HTTP, asked for by way of the API server.
    ///
    /// # Errors
    /// The API server is away, refuses, or cannot reach the pod.
    pub async fn pod_page(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<Value, RequestError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/http:{pod}:{port}/proxy{path}");
        Ok(self.call(Call::get(&path)).await?.1)
    }
}

/// For a query (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all.push(char::from(byte)),
            _ => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn selectors_are_encoded() {
        assert_eq!(encoded("a.b/c=d,e"), "a.b%2Fc%3Dd%2Ce");
    }
}
