//! An installation into a cluster: objects applied in order, waited for, and what is no longer wanted removed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use isthmus_kube::apply::{Applier, ApplyError, Options, Outcome, Readiness};
use isthmus_manifests::operator::{
    Component, ComponentKind, INSTALLER, INSTALLER_LABEL, Installation, OWNER_LABEL, VERSION_LABEL,
};
use serde_json::{Value, json};

use super::named;
use super::progress::Progress;

/// How often readiness is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How an installation is rolled out.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Nothing is changed.
    pub dry_run: bool,
    /// Fields of others are taken over.
    pub force: bool,
    /// Whether to wait until everything works.
    pub wait: bool,
    /// For how long.
    pub patience: Duration,
}

/// What was done to the objects.
#[derive(Debug, Default)]
pub struct Tally {
    /// New objects.
    pub created: usize,
    /// Objects that are other than before.
    pub changed: usize,
    /// Objects that were so already.
    pub unchanged: usize,
    /// Objects that went, by name.
    pub pruned: Vec<String>,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Created => self.created += 1,
            Outcome::Changed => self.changed += 1,
            Outcome::Unchanged => self.unchanged += 1,
        }
    }

    fn text(&self, dry_run: bool) -> String {
        let would = if dry_run { "would be " } else { "" };
        let parts = [
            (self.created, "created"),
            (self.changed, "changed"),
            (self.unchanged, "unchanged"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| match *what {
                "unchanged" => format!("{count} {what}"),
                what => format!("{count} {would}{what}"),
            })
            .collect();
        if parts.is_empty() {
            "no objects".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

/// Applies all components in order, waits for each, prunes.
///
/// # Errors
/// An object is refused, or does not become ready in time: which, and why.
pub async fn roll_out(applier: &Applier, installation: &Installation, how: How) -> anyhow::Result<Tally> {
    let mut progress = Progress::new();
    let mut total = Tally::default();
    let mut fresh = Fresh::default();
    for component in &installation.components {
        let title = match component.kind {
            ComponentKind::Base => component.kind.title().to_owned(),
            kind => format!("{} {}", kind.title(), component.name),
        };
        progress.begin(&title);
        let result = roll_out_component(applier, component, how, &mut fresh, &mut progress).await;
        match result {
            Ok(tally) => {
                progress.done(&tally.text(how.dry_run));
                total.created += tally.created;
                total.changed += tally.changed;
                total.unchanged += tally.unchanged;
            }
            Err(error) => {
                progress.failed(&format!("{error:#}"));
                bail!(
                    "{title} is not installed; what was done stays, and the same command goes on from there"
                );
            }
        }
    }
    prune(applier, installation, how, &mut total).await?;
    Ok(total)
}

/// What does not exist yet during a dry run, so that the API server cannot be asked about what is in it.
#[derive(Default)]
struct Fresh {
    namespaces: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

async fn roll_out_component(
    applier: &Applier,
    component: &Component,
    how: How,
    fresh: &mut Fresh,
    progress: &mut Progress,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for object in &component.objects {
        progress.passing(&format!("applying {}", named(object)));
        let outcome = apply(applier, object, how, fresh).await?;
        if how.dry_run && outcome != Outcome::Unchanged {
            outln!("{} would be {}", named(object), word(outcome));
        }
        tally.count(outcome);
    }
    if how.wait && !how.dry_run {
        wait(applier, component, how.patience, progress).await?;
    }
    Ok(tally)
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
    }
}

async fn apply(applier: &Applier, object: &Value, how: How, fresh: &mut Fresh) -> anyhow::Result<Outcome> {
    let options = Options {
        dry_run: how.dry_run,
        force: how.force,
    };
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let kind = text("/kind");
    if how.dry_run && (fresh.namespaces.contains(&text("/metadata/namespace")) || fresh.kinds.contains(&kind))
    {
        return Ok(Outcome::Created);
    }
    let Some(object) = &as_it_lives(applier, object).await? else {
        return Ok(Outcome::Unchanged);
    };
    let outcome = match applier.apply(object, options).await {
        Err(ApplyError::Conflict { object, message }) => {
            bail!("{object}: {message}; add --force to take these fields over")
        }
        other => other?,
    };
    if outcome == Outcome::Created && how.dry_run {
        match kind.as_str() {
            "Namespace" => {
                fresh.namespaces.insert(text("/metadata/name"));
            }
            "CustomResourceDefinition" => {
                fresh.kinds.insert(text("/spec/names/kind"));
            }
            _ => {}
        }
    }
    Ok(outcome)
}

/// The object with what only the cluster knows: whether a namespace was made here, and what the control plane
/// has made of its webhook. `None` for a definition that somebody else brought and that is as good.
async fn as_it_lives(applier: &Applier, object: &Value) -> anyhow::Result<Option<Value>> {
    let mut object = object.clone();
    match object["kind"].as_str() {
        Some("Namespace") => {
            let live = applier.get(&object).await?;
            let ours = live.is_none_or(|live| live["metadata"]["labels"][INSTALLER_LABEL] == INSTALLER);
            if ours {
                object["metadata"]["labels"][INSTALLER_LABEL] = Value::from(INSTALLER);
            }
        }
        Some("ValidatingWebhookConfiguration") => {
            let live = applier.get(&object).await?.unwrap_or_default();
            for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
                let same = |w: &&Value| w["name"] == webhook["name"];
                let live = live["webhooks"].as_array().and_then(|all| all.iter().find(same));
                if let Some(policy) = live.and_then(|w| w.get("failurePolicy")) {
                    webhook["failurePolicy"] = policy.clone();
                }
            }
        }
        Some("CustomResourceDefinition") => {
            let live = applier.get(&object).await?;
            return Ok(live
                .is_none_or(|live| !suffices(&live, &object))
                .then_some(object));
        }
        _ => {}
    }
    Ok(Some(object))
}

/// Whether a definition in the cluster does without ours: a newer isthmus brought it, or Istio or Helm did and it
/// serves all the versions that ours serves. What serves less is replaced.
fn suffices(live: &Value, ours: &Value) -> bool {
    let labels = &live["metadata"]["labels"];
    if labels[INSTALLER_LABEL] == INSTALLER {
        let version = |o: &Value| o["metadata"]["labels"][VERSION_LABEL].as_str().and_then(parts);
        return version(live) > version(ours);
    }
    let served = |o: &Value| -> BTreeSet<String> {
        let versions = o["spec"]["versions"].as_array().into_iter().flatten();
        versions
            .filter(|v| v["served"] == true)
            .filter_map(|v| v["name"].as_str().map(str::to_owned))
            .collect()
    };
    served(live).is_superset(&served(ours))
}

/// The numbers of a version: `v1.2.3-rc.1` is 1, 2, 3.
pub fn parts(version: &str) -> Option<(u64, u64, u64)> {
    let plain = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut numbers = plain.split('.').map(str::parse);
    Some((
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    ))
}

/// Waits until every object of the component does its work; says what is missing meanwhile.
async fn wait(
    applier: &Applier,
    component: &Component,
    patience: Duration,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    for object in &component.objects {
        loop {
            let why = match applier.ready(object).await {
                Ok(Readiness::Ready) => break,
                Ok(Readiness::Not(why)) => why,
                // It may be away for a moment; the deadline ends it.
                Err(error) => error.to_string(),
            };
            let reason = format!("{} is not ready: {why}", named(object));
            if Instant::now() >= deadline {
                bail!(
                    "{reason} (waited {} s; --readiness-timeout waits longer)",
                    patience.as_secs()
                );
            }
            progress.doing(&reason);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
    Ok(())
}

/// Removes what an earlier installation of the same name brought and this one does not. Definitions stay: what
/// users wrote of their kinds would go with them.
async fn prune(
    applier: &Applier,
    installation: &Installation,
    how: How,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let wanted: BTreeSet<_> = installation.objects().map(key).collect();
    let selector = format!(
        "{INSTALLER_LABEL}={INSTALLER},{OWNER_LABEL}={}",
        installation.owner()
    );
    let mut stale: Vec<Value> = applier
        .owned(&selector)
        .await
        .context("looking for what is no longer wanted")?
        .into_iter()
        .filter(|o| !wanted.contains(&key(o)) && o["kind"] != "CustomResourceDefinition")
        .collect();
    isthmus_manifests::order::sort(&mut stale);
    for object in stale.iter().rev() {
        let name = named(object);
        if how.dry_run {
            outln!("{name} would be removed: it is no longer wanted");
        } else if applier.delete(object).await? {
            eprintln!("✔ Removed {name}: it is no longer wanted");
        }
        tally.pruned.push(name);
    }
    Ok(())
}

/// Group, kind, namespace and name; versions do not tell objects apart.
fn key(object: &Value) -> [String; 4] {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let version = text("/apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    [
        group.to_owned(),
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name"),
    ]
}

/// The version that the control plane of a revision was installed with, if there is one.
pub async fn running_version(
    applier: &Applier,
    namespace: &str,
    revision: &str,
) -> anyhow::Result<Option<String>> {
    let name = if revision == "default" {
        "istiod".to_owned()
    } else {
        format!("istiod-{revision}")
    };
    let wanted = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": namespace } });
    let Some(found) = applier.get(&wanted).await? else {
        return Ok(None);
    };
    let labels = &found["metadata"]["labels"];
    let version = labels["app.kubernetes.io/version"].as_str().unwrap_or("unknown");
    Ok(Some(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(version: Option<&str>, served: &[&str]) -> Value {
        let versions: Vec<Value> = served
            .iter()
            .map(|name| json!({ "name": name, "served": true }))
            .collect();
        let labels = version.map(|v| json!({ INSTALLER_LABEL: INSTALLER, VERSION_LABEL: v }));
        json!({ "metadata": { "labels": labels }, "spec": { "versions": versions } })
    }

    #[test]
    fn definitions_of_others_and_newer_ones_stay_unless_they_serve_less() {
        let ours = definition(Some("0.2.0"), &["v1", "v1beta1"]);
        assert!(suffices(&definition(None, &["v1", "v1beta1", "v1alpha3"]), &ours));
        assert!(!suffices(&definition(None, &["v1beta1"]), &ours));
        assert!(suffices(&definition(Some("0.10.0"), &["v1"]), &ours));
        assert!(!suffices(&definition(Some("0.2.0"), &["v1", "v1beta1"]), &ours));
        assert!(!suffices(&definition(Some("0.1.9"), &["v1", "v1beta1"]), &ours));
    }
}
