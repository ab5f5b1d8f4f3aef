//! Writing the text format 0.0.4, whose names and comments differ from OpenMetrics.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::workers::{Family, Kind, Value};

/// Rewrites OpenMetrics text: counters named with their suffix (or, for those in `bare`, without it
/// everywhere), no `UNIT`, no `EOF`, no exemplars, `unknown` as `untyped`.
pub(super) fn from_open_metrics(text: &str, bare: &BTreeSet<String>, page: &mut String) {
    let mut help: Option<(&str, &str)> = None;
    let mut strip: Option<String> = None;
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            let sample = without_exemplar(line);
            match strip
                .as_deref()
                .and_then(|total| sample.strip_prefix(total).map(|rest| (total, rest)))
            {
                Some((total, rest)) => {
                    page.push_str(&[&total[..total.len() - "_total".len()], rest].concat())
                }
                None => page.push_str(sample),
            }
            page.push('\n');
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (kind, name, rest) = (words.next(), words.next(), words.next().unwrap_or_default());
        match (kind, name) {
            (Some("HELP"), Some(name)) => help = Some((name, rest)),
            (Some("TYPE"), Some(name)) => {
                let is_bare = bare.contains(name);
                strip = (rest == "counter" && is_bare).then(|| format!("{name}_total"));
                let (suffix, kind) = match rest {
                    "counter" if !is_bare => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((of, text)) = help.take()
                    && of == name
                {
                    let _ = writeln!(page, "# HELP {name}{suffix} {text}");
                }
                let _ = writeln!(page, "# TYPE {name}{suffix} {kind}");
            }
            _ => {}
        }
    }
}

/// Cuts ` # {...} v` off a sample; `#` within a label value stands before the closing brace.
fn without_exemplar(line: &str) -> &str {
    let labels_end = end_of_labels(line);
    match line[labels_end..].find(" # ") {
        Some(at) => &line[..labels_end + at],
        None => line,
    }
}

fn end_of_labels(line: &str) -> usize {
    let Some(open) = line.find('{') else { return 0 };
    let (mut quoted, mut escaped) = (false, false);
    for (i, b) in line.bytes().enumerate().skip(open) {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return i,
            _ => {}
        }
    }
    0
}

/// Writes worker families, which are already in the names they are exposed under.
pub(super) fn families(families: &[Family], page: &mut String) {
    for family in families {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(page, "# HELP {} {}", family.name, escaped_help(family.help));
        let _ = writeln!(page, "# TYPE {} {kind}", family.name);
        for series in &family.series {
            let labels = series.labels.as_str();
            match &series.value {
                Value::Counter(n) => sample(page, family.name, labels, *n),
                Value::Gauge(n) => sample(page, family.name, labels, *n),
                Value::Histogram(d) => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let mut below = 0;
                    for (bound, count) in d.bounds.iter().zip(&d.counts) {
                        below += count;
                        let _ = writeln!(
                            page,
                            "{}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}",
                            family.name
                        );
                    }
                    let all: u64 = d.counts.iter().sum();
                    let _ = writeln!(page, "{}_bucket{{{labels}{comma}le=\"+Inf\"}} {all}", family.name);
                    sample(page, &format!("{}_sum", family.name), labels, d.sum);
                    sample(page, &format!("{}_count", family.name), labels, all);
                }
            }
        }
    }
}

fn sample(page: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(page, "{name} {value}"),
        _ => writeln!(page, "{name}{{{labels}}} {value}"),
    };
}

fn escaped_help(help: &str) -> String {
    help.replace('\\', "\\\\").replace('\n', "\\n")
}
