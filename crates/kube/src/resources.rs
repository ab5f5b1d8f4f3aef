//! What an API server serves: which kinds, in which versions, at which paths.

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;

use crate::connect::Cluster;
use crate::rest::{Call, RequestError, encoded};

/// All groups with all their resources in one answer (Kubernetes 1.27), else the list of groups.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// One kind in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Version, as `v1`.
    pub version: String,
    /// As in YAML.
    pub kind: String,
    /// As in paths.
    pub plural: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// `list`, `watch`, `patch`, `delete`, ...
    pub verbs: Vec<String>,
}

impl Resource {
    /// Path of all objects, in one namespace or (`None`) in all.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", encoded(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// Path of one object.
    pub fn path_of(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path(Some(namespace)), encoded(name))
    }

    /// `networking.istio.io/v1`, or `v1` for core.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Whether it can be done to objects of this kind.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// Every kind that is served, in every version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// By group: its resources, the preferred version's first.
    groups: BTreeMap<String, Vec<Resource>>,
}

impl Resources {
    /// Asks the API server.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn read(cluster: &Cluster) -> Result<Self, RequestError> {
        let mut all = Self::default();
        for root in ["/api", "/apis"] {
            let call = Call {
                method: &Method::GET,
                path: root,
                accept: AGGREGATED,
                body: None,
            };
            let answer: Value = cluster.call(call).await?.1;
            if answer["kind"] == "APIGroupDiscoveryList" {
                all.take_aggregated(&answer);
            } else {
                all.read_each(cluster, root, &answer).await?;
            }
        }
        Ok(all)
    }

    /// The kind in this very version.
    pub fn find(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.of(group, kind).find(|r| r.version == version)
    }

    /// The kind in every version, the preferred one first.
    pub fn of(&self, group: &str, kind: &str) -> impl Iterator<Item = &Resource> {
        let all = self.groups.get(group).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(move |r| r.kind == kind)
    }

    /// Every kind once, in its preferred version.
    pub fn preferred(&self) -> impl Iterator<Item = &Resource> {
        self.groups.values().flat_map(|group| {
            group
                .iter()
                .enumerate()
                .filter(|(i, r)| !group.iter().take(*i).any(|before| before.kind == r.kind))
                .map(|(_, r)| r)
        })
    }

    fn take_aggregated(&mut self, answer: &Value) {
        for group in list(answer, "items") {
            let name = text(&group["metadata"], "name");
            for version in list(group, "versions") {
                for resource in list(version, "resources") {
                    self.groups.entry(name.to_owned()).or_default().push(Resource {
                        group: name.to_owned(),
                        version: text(version, "version").to_owned(),
                        kind: text(&resource["responseKind"], "kind").to_owned(),
                        plural: text(resource, "resource").to_owned(),
                        namespaced: text(resource, "scope") == "Namespaced",
                        verbs: verbs(resource),
                    });
                }
            }
        }
    }

    /// Group by group, as older API servers have it.
    async fn read_each(&mut self, cluster: &Cluster, root: &str, answer: &Value) -> Result<(), RequestError> {
        let mut paths: Vec<(String, String)> = Vec::new();
        for version in list(answer, "versions").iter().filter_map(Value::as_str) {
            paths.push((String::new(), version.to_owned()));
        }
        for group in list(answer, "groups") {
            let preferred = text(&group["preferredVersion"], "version");
            let versions = list(group, "versions").iter().map(|v| text(v, "version"));
            let mut versions: Vec<&str> = versions.collect();
            versions.sort_by_key(|v| *v != preferred);
            paths.extend(
                versions
                    .into_iter()
                    .map(|v| (text(group, "name").to_owned(), v.to_owned())),
            );
        }
        for (group, version) in paths {
            let path = match group.as_str() {
                "" => format!("{root}/{version}"),
                group => format!("{root}/{group}/{version}"),
            };
            let resources = match cluster.get(&path).await {
                Ok(resources) => resources,
                // A group served by somebody else who is away at the moment.
                Err(RequestError::Refused { code: 404 | 503, .. }) => continue,
                Err(error) => return Err(error),
            };
            let known = self.groups.entry(group.clone()).or_default();
            for resource in list(&resources, "resources") {
                let plural = text(resource, "name");
                if plural.contains('/') {
                    continue;
                }
                known.push(Resource {
                    group: group.clone(),
                    version: version.clone(),
                    kind: text(resource, "kind").to_owned(),
                    plural: plural.to_owned(),
                    namespaced: resource["namespaced"] == true,
                    verbs: verbs(resource),
                });
            }
        }
        Ok(())
    }
}

fn text<'a>(json: &'a Value, name: &str) -> &'a str {
    json.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json.get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn verbs(resource: &Value) -> Vec<String> {
    let verbs = list(resource, "verbs").iter().filter_map(Value::as_str);
    verbs.map(str::to_owned).collect()
}
