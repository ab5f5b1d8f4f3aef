//! `metadata`: names, labels and the annotations that the mesh reads.

use isthmus_model::Hostname;

use super::{At, Context};
use crate::kinds::Kind;
use crate::object::Meta;
use crate::{annotation, codes};

/// Checks the metadata of any kind.
pub fn validate(meta: &Meta, context: &Context<'_>) {
    let at = context.at("metadata");
    if meta.name.is_empty() && meta.generate_name.is_empty() {
        at.field("name")
            .error("the object has no name", "add metadata.name");
    } else if !meta.name.is_empty() {
        name(&meta.name, &at.field("name"));
    }
    if !meta.namespace.is_empty() && !is_dns_label(&meta.namespace) {
        at.field("namespace").error(
            format_args!("{:?} is not a namespace", clip(&meta.namespace)),
            "use 1 to 63 lower-case letters, digits and '-'",
        );
    }
    labels(&meta.labels, &at.field("labels"));
    annotations(meta, context, &at.field("annotations"));
}

fn annotations(meta: &Meta, context: &Context<'_>, at: &At<'_>) {
    if let Some(target) = meta.annotations.get(annotation::TARGET_SERVICE) {
        let at = at.field(annotation::TARGET_SERVICE);
        if context.kind() != Kind::ServiceEntry {
            at.finding(
                &codes::MISPLACED_ANNOTATION,
                "the annotation means something only on a ServiceEntry",
                "move it to the ServiceEntry of the host",
            );
        } else if !target
            .parse::<Hostname>()
            .is_ok_and(|h| !h.is_wildcard() && h.as_str().contains('.'))
        {
            at.error(
                format_args!("{:?} is not a service", clip(target)),
                "write name.namespace or a full host name",
            );
        }
    }
    if let Some(list) = meta.annotations.get(annotation::EXPORT_TO)
        && context.kind() == Kind::Service
    {
        let list: Vec<String> = list.split(',').map(|s| s.trim().to_owned()).collect();
        super::field::export_to(&list, &at.field(annotation::EXPORT_TO));
    }
}

/// Whether `s` is an RFC 1123 label: 1 to 63 lower-case letters, digits and `-`.
pub fn is_dns_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// Checks labels, those of a selector as well.
pub fn labels(labels: &isthmus_model::Labels, at: &At<'_>) {
    for (key, value) in labels.iter() {
        let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
        let prefix_ok = !key.contains('/')
            || (prefix.len() <= 253 && !prefix.is_empty() && prefix.split('.').all(is_dns_label));
        if !prefix_ok || !is_label_text(name) || name.is_empty() {
            at.field(key).error(
                format_args!("{:?} is not a label's name", clip(key)),
                "use at most 63 letters, digits, '-', '_' and '.', perhaps after a DNS name and '/'",
            );
        }
        if !is_label_text(value) {
            at.field(key).error(
                format_args!("{:?} is not a label's value", clip(value)),
                "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            );
        }
    }
}

fn is_label_text(s: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    s.len() <= 63
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && ends(s.as_bytes().first())
        && ends(s.as_bytes().last())
}

fn name(name: &str, at: &At<'_>) {
    // Some kinds of Kubernetes allow ':' and upper case (RBAC); those that are read here do not.
    if name.len() > 253
        || !name
            .split('.')
            .all(|label| is_dns_label(label) || label.len() > 63)
    {
        at.error(
            format_args!("{:?} is not a name", clip(name)),
            "use at most 253 lower-case letters, digits, '-' and '.'",
        );
    }
}

pub(super) fn clip(s: &str) -> String {
    s.chars().take(80).collect()
}
