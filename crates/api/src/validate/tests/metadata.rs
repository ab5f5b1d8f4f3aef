//! Metadata, and how much is said of one document.

use crate::parse;

use super::{ISTIO, check};

#[test]
fn a_document_with_thousands_of_mistakes_yields_a_bounded_report() {
    let hosts: String = (0..5000).map(|i| format!("- 'a b {i}'\n")).collect();
    let found = check(
        "VirtualService",
        &format!("hosts:\n{hosts}http: [{{route: [{{destination: {{host: a}}}}]}}]"),
    );
    assert!(found.len() <= 101, "{}", found.len());
}

#[test]
fn metadata() {
    let named = |meta: &str| {
        parse(
            &format!("{ISTIO}WorkloadEntry\nmetadata: {meta}\nspec: {{address: 10.0.0.1}}\n"),
            "f",
        )
        .findings
    };
    assert!(named("{name: a}").is_empty());
    assert!(named("{}")[0].message.contains("has no name"));
    assert!(named("{name: A_B}")[0].message.contains("is not a name"));
    assert!(
        named("{name: a, namespace: A}")[0]
            .message
            .contains("not a namespace")
    );
    assert!(
        named("{name: a, labels: {a: 'b c'}}")[0]
            .message
            .contains("not a label's value")
    );
    assert!(
        named("{name: a, labels: {a: 5}}")[0]
            .message
            .contains("put it in quotes")
    );
    assert_eq!(
        named("{name: a, lables: {a: b}}")[0].remedy,
        "did you mean labels?"
    );
}
