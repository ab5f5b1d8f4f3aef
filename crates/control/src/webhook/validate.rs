//! `/validate`: an object of the mesh's kinds is kept only when `isthmus validate` has nothing against it.

use isthmus_api::finding::Finding;
use isthmus_api::{analyze, parse_json};
use serde_json::Value;

use super::meters::Meters;
use super::review::{Admission, Review};

/// Says what is wrong with an object.
pub(super) fn admit(review: &Review, meters: &Meters) -> Admission {
    let question = &review.request;
    let deleted = |object: &Value| {
        object
            .pointer("/metadata/deletionTimestamp")
            .is_some_and(|t| !t.is_null())
    };
    // An object that goes may go, whatever it says: its finalizers are taken away by updates.
    if !matches!(question.operation.as_str(), "CREATE" | "UPDATE")
        || !question.sub_resource.is_empty()
        || !question.object.is_object()
        || deleted(&question.object)
    {
        return Admission::default();
    }
    let findings = analyze::by_themselves(parse_json(&question.object, ""));
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) = findings.iter().partition(|f| f.is_error());
    let mut said: Vec<String> = warnings.into_iter().map(words).collect();
    let spec = |object: &Value| object.get("spec").cloned();
    let resource = &question.resource;
    if errors.is_empty() {
        meters.passed(resource);
    } else if question.old_object.is_object() && spec(&question.old_object) == spec(&question.object) {
        // It was kept before: rules that have become stricter lock nobody out of its labels and status.
        said.extend(errors.into_iter().map(words));
        meters.passed(resource);
    } else {
        let text: Vec<String> = errors.into_iter().map(words).collect();
        tracing::info!(
            kind = question.kind.kind,
            namespace = question.namespace,
            name = question.name,
            reason = text.join("; "),
            "an object is refused"
        );
        meters.refused(resource);
        return Admission {
            refusal: Some(text.join("\n")),
            warnings: said,
            ..Admission::default()
        };
    }
    Admission {
        warnings: said,
        ..Admission::default()
    }
}

/// A finding without place: there is no file.
fn words(finding: &Finding) -> String {
    let remedy = match finding.remedy.as_str() {
        "" => String::new(),
        remedy => format!("; {remedy}"),
    };
    format!("{}{remedy} [{}]", finding.message, finding.code.id)
}
