//! `isthmus kube-inject`: the sidecar written into files, where no webhook is to do it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use isthmus_api::MeshConfig;
use isthmus_api::mesh_config;
use isthmus_kube::apply::Applier;
use isthmus_manifests::inject::{
    self, Injected, Namespace, Outcome, Reason, Request, Rules, Settings, Workload, settings,
};
use isthmus_manifests::yaml;
use serde_json::{Value, json};

use super::cluster_flags::{ClusterFlags, block_on};
use super::exit;

/// Bytes of input at most.
const MOST: u64 = 64 << 20;

/// Write sidecars into the pods of files, as the webhook would.
///
/// Reads Pods, and the pod templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and
/// Lists. What needs nothing is printed as it is. Settings come from files, and what no file says from the cluster.
/// Skipped pods and what a pod asks for in vain are told on standard error.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus kube-inject -f deployment.yaml -o injected.yaml\n  isthmus kube-inject -f - --meshConfigFile mesh.yaml --valuesFile values.json"
)]
pub struct Args {
    /// File of YAML or JSON; `-` reads standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    filename: PathBuf,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Who is injected (Istio's injection ConfigMap, key `config`); its templates are not used.
    #[arg(long = "injectConfigFile", alias = "inject-config-file", value_name = "FILE")]
    inject_config_file: Option<PathBuf>,
    /// MeshConfig; ConfigMap `istio` of the cluster without it.
    #[arg(long = "meshConfigFile", alias = "mesh-config-file", value_name = "FILE")]
    mesh_config_file: Option<PathBuf>,
    /// Injection values; ConfigMap `istio-sidecar-injector` of the cluster without it.
    #[arg(long = "valuesFile", alias = "values-file", value_name = "FILE")]
    values_file: Option<PathBuf>,
    /// Revision whose sidecars are written.
    #[arg(short, long, default_value = "", value_name = "NAME")]
    revision: String,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Namespace of the control plane.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        alias = "istio-namespace",
        default_value = "istio-system"
    )]
    istio_namespace: String,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let text = if args.filename == Path::new("-") {
        read(std::io::stdin().lock()).context("reading standard input")?
    } else {
        read_file(&args.filename)?
    };
    let settings = settings_of(&args)?;
    let (out, said) =
        whole(&text, &args.namespace, &settings).with_context(|| format!("{}", args.filename.display()))?;
    for line in said {
        eprintln!("{line}");
    }
    match &args.output {
        Some(file) => std::fs::write(file, out).with_context(|| format!("writing {}", file.display()))?,
        None => std::io::stdout().lock().write_all(out.as_bytes())?,
    }
    Ok(ExitCode::from(exit::OK))
}

fn read_file(file: &Path) -> anyhow::Result<String> {
    let opened = std::fs::File::open(file).with_context(|| format!("reading {}", file.display()))?;
    read(opened).with_context(|| format!("reading {}", file.display()))
}

fn read(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        bail!("more than {MOST} bytes");
    }
    Ok(text)
}

/// One document of a file as a value; nothing for an empty one.
fn document(text: &str, file: &Path) -> anyhow::Result<Value> {
    match yaml::read(text) {
        Ok(documents) => Ok(documents.into_iter().next().unwrap_or(Value::Null)),
        Err(malformed) => bail!(
            "{}:{}: {}; {}",
            file.display(),
            malformed.line,
            malformed.message,
            malformed.remedy
        ),
    }
}

fn settings_of(args: &Args) -> anyhow::Result<Settings> {
    let name = |base: &str| match args.revision.as_str() {
        "" | "default" => base.to_owned(),
        revision => format!("{base}-{revision}"),
    };
    let mesh = match &args.mesh_config_file {
        Some(file) => read_file(file)?,
        None => config_map(args, &name(mesh_config::CONFIG_MAP), "mesh", "--meshConfigFile")?,
    };
    let file = args
        .mesh_config_file
        .as_deref()
        .map_or("mesh".into(), Path::to_string_lossy);
    let mesh = mesh_of(&mesh, &file)?;
    let values = match &args.values_file {
        Some(file) => document(&read_file(file)?, file)?,
        None => {
            let text = config_map(args, &name(settings::CONFIG_MAP), settings::KEY, "--valuesFile")?;
            document(&text, Path::new(settings::CONFIG_MAP))?
        }
    };
    let mut values = if values.is_null() {
        Value::Object(Default::default())
    } else {
        values
    };
    if !args.revision.is_empty() {
        values["revision"] = args.revision.clone().into();
    }
    let mut settings = Settings::new(&values, &mesh)?;
    if let Some(file) = &args.inject_config_file {
        let config = document(&read_file(file)?, file)?;
        settings.rules = rules(&config).with_context(|| format!("{}", file.display()))?;
    }
    Ok(settings)
}

fn mesh_of(text: &str, file: &str) -> anyhow::Result<MeshConfig> {
    let (mesh, findings) = mesh_config::from_text(text, file);
    let mut errors = Vec::new();
    for finding in findings {
        if finding.is_error() {
            errors.push(finding.to_string());
        } else {
            eprintln!("{finding}");
        }
    }
    if errors.is_empty() {
        Ok(mesh)
    } else {
        bail!(errors.join("\n"))
    }
}

/// The selectors of Istio's injection configuration.
fn rules(config: &Value) -> anyhow::Result<Rules> {
    let selectors = |field: &str| -> anyhow::Result<_> {
        match config.get(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(found) => serde_json::from_value(found.clone())
                .with_context(|| format!("{field}: a list of label selectors is expected")),
        }
    };
    if config.get("templates").is_some() {
        eprintln!("warning: templates of the injection configuration are not used: the sidecar is built in");
    }
    Ok(Rules {
        never: selectors("neverInjectSelector")?,
        always: selectors("alwaysInjectSelector")?,
        ..Rules::default()
    })
}

/// A text of a ConfigMap of the control plane's namespace.
fn config_map(args: &Args, name: &str, key: &str, flag: &str) -> anyhow::Result<String> {
    let namespace = &args.istio_namespace;
    let wanted =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}});
    let read = block_on(async {
        let cluster = args.cluster.connect().await?;
        Ok(Applier::new(cluster, "isthmus").get(&wanted).await?)
    });
    let read = read
        .with_context(|| format!("{flag} is not given, and ConfigMap {namespace}/{name} cannot be read"))?;
    let Some(map) = read else {
        bail!(
            "ConfigMap {namespace}/{name} is not there: install the mesh (isthmus install), or give {flag}"
        );
    };
    let text = map.pointer(&format!("/data/{key}")).and_then(Value::as_str);
    Ok(text.unwrap_or_default().to_owned())
}

/// The text with its pods injected, and what is to be said.
fn whole(text: &str, namespace: &str, settings: &Settings) -> anyhow::Result<(String, Vec<String>)> {
    let (mut out, mut said) = (String::with_capacity(text.len()), Vec::new());
    for part in parts(text) {
        let value = document(part.body, Path::new("document"))?;
        out.push_str(part.separator);
        match injected(value, namespace, settings, &mut said)? {
            Some(value) => out.push_str(&yaml::write(&value)),
            None => out.push_str(part.body),
        }
    }
    Ok((out, said))
}

/// A document with the line before it.
struct Part<'a> {
    separator: &'a str,
    body: &'a str,
}

/// The documents as they are written: a line that begins with `---` always ends one, even within a text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut separator, mut body_from, mut at) = ("", 0, 0);
    for line in text.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(" #"));
        if marker {
            parts.push(Part {
                separator,
                body: &text[body_from..at],
            });
            separator = &text[at..at + line.len()];
            body_from = at + line.len();
        }
        at += line.len();
    }
    parts.push(Part {
        separator,
        body: &text[body_from..],
    });
    parts
}

/// An object with its pod injected; `None` when nothing is to be done.
fn injected(
    object: Value,
    namespace: &str,
    settings: &Settings,
    said: &mut Vec<String>,
) -> anyhow::Result<Option<Value>> {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    if kind == "List" {
        let (mut object, mut changed) = (object, false);
        for item in object
            .get_mut("items")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(value) = injected(item.clone(), namespace, settings, said)? {
                *item = value;
                changed = true;
            }
        }
        return Ok(changed.then_some(object));
    }
    let Some(path) = template(&api_version, &kind) else {
        return Ok(None);
    };
    let namespace = match text("/metadata/namespace") {
        own if own.is_empty() => namespace.to_owned(),
        own => own,
    };
    let name = match text("/metadata/name") {
        name if name.is_empty() => text("/metadata/generateName"),
        name => name,
    };
    let about = format!("{kind} {namespace}/{name}");
    let pod = object
        .pointer(path)
        .with_context(|| format!("{about}: it has no pod template"))?;
    let workload = Workload {
        api_version,
        kind: kind.clone(),
        name,
        namespace: namespace.clone(),
    };
    let request = Request {
        pod,
        namespace: &namespace,
        by: Namespace::Chosen,
        network: None,
        workload: (kind != "Pod").then_some(&workload),
    };
    match inject::inject(&request, settings).with_context(|| about.clone())? {
        Outcome::Skipped(Reason::Already) => Ok(None),
        Outcome::Skipped(reason) => {
            said.push(format!("{about}: no sidecar: {reason}"));
            Ok(None)
        }
        Outcome::Injected(injected) => {
            let Injected { pod, warnings, .. } = *injected;
            said.extend(warnings.into_iter().map(|warning| format!("{about}: {warning}")));
            let mut object = object;
            if let Some(place) = object.pointer_mut(path) {
                *place = pod;
            }
            Ok(Some(object))
        }
    }
}

/// Where the pod of a kind stands.
fn template(api_version: &str, kind: &str) -> Option<&'static str> {
    match (api_version, kind) {
        ("v1", "Pod") => Some(""),
        ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch/v1", "Job")
        | ("v1", "ReplicationController")
        | ("apps.openshift.io/v1", "DeploymentConfig") => Some("/spec/template"),
        ("batch/v1" | "batch/v1beta1", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "# kept: {as: it, is}\napiVersion: v1\nkind: Service\nmetadata:   {name: web}\n";
    const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: bank}\nspec:\n  \
                              template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: w}]}\n";

    fn settings() -> Settings {
        Settings::from_text("", &MeshConfig::default()).unwrap()
    }

    fn read(text: &str) -> Vec<Value> {
        yaml::read(text).unwrap()
    }

    #[test]
    fn workloads_get_sidecars_and_the_rest_stays_byte_for_byte() {
        let text = format!("{SERVICE}---\n{DEPLOYMENT}--- # another\n{SERVICE}");
        let (out, said) = whole(&text, "default", &settings()).unwrap();
        assert_eq!(said, [""; 0]);
        assert!(
            out.starts_with(&format!("{SERVICE}---\napiVersion: apps/v1\n")),
            "{out}"
        );
        assert!(out.ends_with(&format!("--- # another\n{SERVICE}")), "{out}");
        let deployment = &read(&out)[1];
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["initContainers"][1]["name"], "istio-proxy");
        let owner = pod["initContainers"][1]["env"].as_array().unwrap();
        let owner = owner.iter().find(|v| v["name"] == "ISTIO_META_OWNER").unwrap();
        assert_eq!(
            owner["value"],
            "kubernetes://apis/apps/v1/namespaces/bank/deployments/web"
        );
        // A second time there is nothing to do.
        assert_eq!(whole(&out, "default", &settings()).unwrap(), (out, Vec::new()));
    }

    #[test]
    fn pods_stand_at_different_depths() {
        let pod = "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";
        for (head, path) in [
            (
                format!(
                    "apiVersion: v1\nkind: Pod\n{}",
                    "metadata: {name: p}\nspec: {containers: [{name: c, image: i}]}"
                ),
                "",
            ),
            (
                format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec: {{template: {pod}}}"),
                "/spec/template",
            ),
            (
                format!(
                    "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: j}}\nspec: {{jobTemplate: {{spec: {{template: {pod}}}}}}}"
                ),
                "/spec/jobTemplate/spec/template",
            ),
            (
                format!(
                    "apiVersion: v1\nkind: List\nitems: [{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: d}}, spec: {{template: {pod}}}}}]"
                ),
                "/items/0/spec/template",
            ),
        ] {
            let (out, _) = whole(&head, "default", &settings()).unwrap();
            let object = read(&out).remove(0);
            let name = object.pointer(&format!("{path}/spec/initContainers/1/name"));
            assert_eq!(name.and_then(Value::as_str), Some("istio-proxy"), "{out}");
        }
    }

    #[test]
    fn who_gets_none_is_said_and_what_cannot_be_meant_names_the_object() {
        let host = DEPLOYMENT.replace("spec: {containers", "spec: {hostNetwork: true, containers");
        let (out, said) = whole(&host, "default", &settings()).unwrap();
        assert_eq!(out, host);
        assert!(
            said[0].starts_with("Deployment bank/web: no sidecar: it uses the node's network"),
            "{said:?}"
        );
        let odd = DEPLOYMENT.replace(
            "labels: {app: web}",
            "annotations: {sidecar.istio.io/proxyCPU: much}",
        );
        let error = format!("{:#}", whole(&odd, "default", &settings()).unwrap_err());
        assert!(
            error.starts_with("Deployment bank/web: annotation sidecar.istio.io/proxyCPU"),
            "{error}"
        );
    }

    #[test]
    fn the_injection_configuration_says_who() {
        let config = read("policy: enabled\nneverInjectSelector:\n- matchLabels: {app: web}\n").remove(0);
        let mut settings = settings();
        settings.rules = rules(&config).unwrap();
        let (out, said) = whole(DEPLOYMENT, "default", &settings).unwrap();
        assert_eq!((out.as_str(), said.len()), (DEPLOYMENT, 1));
    }
}
