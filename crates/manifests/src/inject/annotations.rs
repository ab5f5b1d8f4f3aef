//! What a pod's annotations ask of its proxy. Every annotation under Istio's prefixes has an effect, or a
//! warning that says what to write instead.

use std::collections::BTreeMap;

use isthmus_api::suggest::nearest;
use isthmus_redirect::capture::{ANNOTATION_PREFIX, Plan};
use serde_json::{Map, Value, json};

use super::proxy_config::{self, ProxyConfig};
use super::settings::Settings;
use super::{InjectError, STATUS, decide};

/// What the pod wishes, the settings worked in.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    pub proxy_config: ProxyConfig,
    /// `sidecar.istio.io/proxyImage`.
    pub image: Option<String>,
    /// `resources` of the proxy.
    pub resources: Value,
    /// Levels of the proxy's log; the default when empty.
    pub log_level: String,
    /// Whether traffic is redirected at all.
    pub redirect: bool,
    /// What of it, by the last part of the annotation's name.
    pub capture: BTreeMap<String, String>,
    /// Whether probes are asked through the agent.
    pub rewrite_probes: bool,
    /// Whether the application's metrics are added to the proxy's.
    pub merge_metrics: bool,
    /// Whether the sidecar is an init container that stays.
    pub native: bool,
    /// `sidecar.istio.io/userVolume`.
    pub volumes: Vec<Value>,
    /// `sidecar.istio.io/userVolumeMount`.
    pub mounts: Vec<Value>,
    /// Seconds before the first look at readiness, between looks, and failures.
    pub readiness: (i64, i64, i64),
    /// Whether readiness is looked at.
    pub status: bool,
    pub warnings: Vec<String>,
}

const RESOURCES: [(&str, &str, &str); 4] = [
    ("sidecar.istio.io/proxyCPU", "requests", "cpu"),
    ("sidecar.istio.io/proxyMemory", "requests", "memory"),
    ("sidecar.istio.io/proxyCPULimit", "limits", "cpu"),
    ("sidecar.istio.io/proxyMemoryLimit", "limits", "memory"),
];
const IMAGE: &str = "sidecar.istio.io/proxyImage";
const LOG_LEVEL: &str = "sidecar.istio.io/logLevel";
const INTERCEPTION: &str = "sidecar.istio.io/interceptionMode";
const REWRITE: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
const NATIVE: &str = "sidecar.istio.io/nativeSidecar";
const VOLUMES: &str = "sidecar.istio.io/userVolume";
const MOUNTS: &str = "sidecar.istio.io/userVolumeMount";
const MERGE: &str = "prometheus.istio.io/merge-metrics";
const STATUS_PORT: &str = "status.sidecar.istio.io/port";
const READINESS: [&str; 3] = [
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "readiness.status.sidecar.istio.io/failureThreshold",
];
/// What of the capture can be said for one pod.
const CAPTURE: [&str; 7] = [
    "includeInboundPorts",
    "excludeInboundPorts",
    "includeOutboundIPRanges",
    "excludeOutboundIPRanges",
    "includeOutboundPorts",
    "excludeOutboundPorts",
    "excludeInterfaces",
];
/// Istio's that have no effect: why, and what to write instead.
const WITHOUT_EFFECT: [(&str, &str, &str); 14] = [
    (
        "sidecar.istio.io/agentLogLevel",
        "agent and proxy are one process",
        "set sidecar.istio.io/logLevel",
    ),
    (
        "sidecar.istio.io/componentLogLevel",
        "Envoy's components are not here",
        "set sidecar.istio.io/logLevel: default:info,proxy:debug",
    ),
    (
        "sidecar.istio.io/bootstrapOverride",
        "there is no bootstrap file",
        "remove it",
    ),
    (
        "sidecar.istio.io/controlPlaneAuthPolicy",
        "the control plane is spoken to by TLS, always",
        "remove it",
    ),
    (
        "sidecar.istio.io/discoveryAddress",
        "the mesh's counts",
        "set discoveryAddress in proxy.istio.io/config",
    ),
    (
        "sidecar.istio.io/enableCoreDump",
        "the proxy writes none",
        "remove it",
    ),
    (
        "sidecar.istio.io/extraStatTags",
        "metrics carry Istio's labels",
        "remove it",
    ),
    (
        "sidecar.istio.io/proxyImageType",
        "there is one image",
        "remove it",
    ),
    (
        "sidecar.istio.io/statsCompression",
        "metrics are not compressed",
        "remove it",
    ),
    (
        "sidecar.istio.io/statsHistogramBuckets",
        "metrics have Istio's buckets",
        "remove it",
    ),
    (
        "sidecar.istio.io/statsInclusionPrefixes",
        "all metrics are made",
        "remove it",
    ),
    (
        "sidecar.istio.io/statsInclusionRegexps",
        "all metrics are made",
        "remove it",
    ),
    (
        "sidecar.istio.io/statsInclusionSuffixes",
        "all metrics are made",
        "remove it",
    ),
    (
        "readiness.status.sidecar.istio.io/applicationPorts",
        "the proxy's readiness does not look at the application",
        "give the application a readinessProbe",
    ),
];
/// Read elsewhere, or written by injection itself.
const ELSEWHERE: [&str; 5] = [
    STATUS,
    decide::INJECT,
    decide::TEMPLATES,
    proxy_config::ANNOTATION,
    "proxy.istio.io/overrides",
];
/// Whose annotations are the mesh's.
const PREFIXES: [&str; 6] = [
    "sidecar.istio.io/",
    "proxy.istio.io/",
    "inject.istio.io/",
    "status.sidecar.istio.io/",
    "readiness.status.sidecar.istio.io/",
    "prometheus.istio.io/",
];

/// Reads them all.
pub(super) fn read(
    annotations: &BTreeMap<String, String>,
    settings: &Settings,
) -> Result<Wishes, InjectError> {
    let read = Annotations(annotations);
    let mut warnings = without_effect(annotations);
    let proxy_config = match annotations.get(proxy_config::ANNOTATION) {
        None => settings.proxy_config.clone(),
        Some(text) => {
            let (config, said) = settings.proxy_config.with_annotation(text)?;
            warnings.extend(said);
            config
        }
    };
    let redirect = match annotations.get(INTERCEPTION).map_or("", String::as_str) {
        "" | "REDIRECT" => true,
        "NONE" => false,
        "TPROXY" => {
            warnings.push(format!(
                "{INTERCEPTION}: TPROXY: traffic is redirected, and the application sees its callers as 127.0.0.6: remove it"
            ));
            true
        }
        other => return Err(wrong(INTERCEPTION, other, "write REDIRECT or NONE")),
    };
    let status = match annotations.get(STATUS_PORT).map(String::as_str) {
        Some("0") => false,
        None | Some("15020" | "15021") => true,
        Some(port) => {
            warnings.push(format!("annotation {STATUS_PORT}: {port:?} has no effect: it is 15021, or 0 for no look at readiness: remove it"));
            true
        }
    };
    Ok(Wishes {
        image: annotations.get(IMAGE).filter(|v| !v.is_empty()).cloned(),
        resources: read.resources(settings)?,
        log_level: read.log_level(settings)?,
        redirect,
        capture: read.capture(settings, &mut warnings)?,
        rewrite_probes: read.flag(REWRITE, settings.rewrite_probes)?,
        merge_metrics: read.flag(MERGE, settings.merge_metrics)?,
        native: read.flag(NATIVE, settings.native)?,
        volumes: read.named(VOLUMES)?,
        mounts: read.named(MOUNTS)?,
        readiness: (
            read.number(READINESS[0], settings.readiness_delay)?,
            read.number(READINESS[1], settings.readiness_period)?,
            read.number(READINESS[2], settings.readiness_failures)?,
        ),
        status,
        proxy_config,
        warnings,
    })
}

fn without_effect(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let mut known: Vec<&str> = vec![
        IMAGE,
        LOG_LEVEL,
        INTERCEPTION,
        REWRITE,
        NATIVE,
        VOLUMES,
        MOUNTS,
        MERGE,
        STATUS_PORT,
    ];
    known.extend(RESOURCES.map(|(name, ..)| name));
    known.extend(READINESS);
    known.extend(ELSEWHERE);
    let mut warnings = Vec::new();
    for name in annotations.keys() {
        if let Some((_, why, instead)) = WITHOUT_EFFECT.iter().find(|(n, ..)| n == name) {
            warnings.push(format!("annotation {name} has no effect: {why}: {instead}"));
        } else if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !known.contains(&name.as_str()) {
            let remedy = nearest(name, known.iter().copied()).map_or_else(
                || "remove it".to_owned(),
                |meant| format!("did you mean {meant}?"),
            );
            warnings.push(format!(
                "annotation {name} has no effect: there is none of this name: {remedy}"
            ));
        }
    }
    warnings
}

fn wrong(name: &str, value: &str, reason: impl Into<String>) -> InjectError {
    InjectError::Annotation {
        name: name.to_owned(),
        value: value.to_owned(),
        reason: reason.into(),
    }
}

struct Annotations<'a>(&'a BTreeMap<String, String>);

impl Annotations<'_> {
    fn flag(&self, name: &str, default: bool) -> Result<bool, InjectError> {
        match self.0.get(name).map(String::as_str) {
            None | Some("") => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(wrong(name, other, "write \"true\" or \"false\"")),
        }
    }

    fn number(&self, name: &str, default: i64) -> Result<i64, InjectError> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => match text.parse::<u16>() {
                Ok(number) => Ok(number.into()),
                Err(_) => Err(wrong(name, text, "a number up to 65535 is expected")),
            },
        }
    }

    /// Resources by annotation take the place of those of the settings altogether, as Istio's do.
    fn resources(&self, settings: &Settings) -> Result<Value, InjectError> {
        let mut out: Map<String, Value> = Map::new();
        for (name, part, resource) in RESOURCES {
            let Some(value) = self.0.get(name).filter(|v| !v.is_empty()) else {
                continue;
            };
            if !is_quantity(value) {
                return Err(wrong(
                    name,
                    value,
                    "a quantity is expected, as 100m, 0.5, 128Mi or 1G",
                ));
            }
            out.entry(part).or_insert_with(|| json!({}))[resource] = json!(value);
        }
        Ok(if out.is_empty() {
            settings.resources.clone()
        } else {
            Value::Object(out)
        })
    }

    fn log_level(&self, settings: &Settings) -> Result<String, InjectError> {
        let Some(text) = self.0.get(LOG_LEVEL) else {
            return Ok(settings.log_level.clone());
        };
        const LEVELS: [&str; 9] = [
            "none", "off", "critical", "error", "warn", "warning", "info", "debug", "trace",
        ];
        let level = |part: &str| {
            let level = part.rsplit_once([':', '=']).map_or(part, |(_, level)| level);
            LEVELS.contains(&level.trim().to_ascii_lowercase().as_str())
        };
        if text.split(',').all(level) {
            Ok(text.clone())
        } else {
            Err(wrong(
                LOG_LEVEL,
                text,
                format!("write one of {}", LEVELS.join(", ")),
            ))
        }
    }

    fn capture(
        &self,
        settings: &Settings,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<String, String>, InjectError> {
        let mut capture: BTreeMap<String, String> = settings
            .capture
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        for (name, value) in self.0 {
            let Some(short) = name.strip_prefix(ANNOTATION_PREFIX) else {
                continue;
            };
            if CAPTURE.contains(&short) {
                capture.insert(short.to_owned(), value.clone());
                continue;
            }
            let remedy = nearest(short, CAPTURE).map_or_else(
                || format!("there are {}", CAPTURE.join(", ")),
                |meant| format!("did you mean {ANNOTATION_PREFIX}{meant}?"),
            );
            warnings.push(format!("annotation {name} has no effect: {remedy}"));
        }
        let full = capture
            .iter()
            .map(|(k, v)| (format!("{ANNOTATION_PREFIX}{k}"), v.clone()))
            .collect();
        match Plan::default().with_annotations(&full) {
            Ok(_) => Ok(capture),
            Err(isthmus_redirect::Error::Annotation {
                annotation,
                value,
                reason,
            }) => Err(wrong(&annotation, &value, reason)),
            Err(other) => Err(wrong(ANNOTATION_PREFIX, "", other.to_string())),
        }
    }

    /// `{"NAME": {...}}`, or a list of objects that bear their names.
    fn named(&self, annotation: &str) -> Result<Vec<Value>, InjectError> {
        let Some(text) = self.0.get(annotation).filter(|t| !t.trim().is_empty()) else {
            return Ok(Vec::new());
        };
        let expected = r#"JSON is expected: {"NAME": {...}}"#;
        let items: Vec<Value> = match serde_json::from_str(text) {
            Ok(Value::Array(items)) => items,
            Ok(Value::Object(fields)) => fields
                .into_iter()
                .filter_map(|(name, mut item)| {
                    item.as_object_mut()?.insert("name".to_owned(), json!(name));
                    Some(item)
                })
                .collect(),
            Ok(_) => return Err(wrong(annotation, text, expected)),
            Err(error) => return Err(wrong(annotation, text, format!("{expected}: {error}"))),
        };
        let named = |item: &Value| item.get("name").is_some_and(Value::is_string);
        if items.is_empty() || !items.iter().all(named) {
            return Err(wrong(annotation, text, expected));
        }
        Ok(items)
    }
}

/// Kubernetes' quantities: a number with a suffix.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 16] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .is_some_and(|e| e.parse::<i8>().is_ok());
    number.parse::<f64>().is_ok() && (SUFFIXES.contains(&suffix) || exponent)
}
