//! Hostile and odd texts.

use super::*;

fn one(text: &str) -> Node {
    documents(text, &Limits::default()).remove(0).unwrap()
}

fn refusal(text: &str) -> Malformed {
    documents(text, &Limits::default())
        .into_iter()
        .find_map(Result::err)
        .unwrap()
}

#[test]
fn plain_scalars_are_typed_as_kubectl_types_them() {
    let kind = |text: &str| match one(&format!("a: {text}\n")).field("a").unwrap().value {
        Value::Scalar(ref s) => s.kind,
        _ => panic!("not a scalar"),
    };
    assert_eq!(kind("yes"), ScalarKind::Bool(true));
    assert_eq!(kind("'yes'"), ScalarKind::Text);
    assert_eq!(kind("1_000"), ScalarKind::Int(1000));
    assert_eq!(kind("0x10"), ScalarKind::Int(16));
    assert_eq!(kind("010"), ScalarKind::Int(8));
    assert_eq!(kind("-5"), ScalarKind::Int(-5));
    assert_eq!(kind("1.5"), ScalarKind::Float(1.5));
    assert_eq!(kind("10s"), ScalarKind::Text);
    assert_eq!(kind("10.0.0.1"), ScalarKind::Text);
    assert_eq!(kind("1e400000"), ScalarKind::Float(f64::INFINITY));
    assert_eq!(
        kind("99999999999999999999999999999999999999999999999999"),
        ScalarKind::Float(1e50)
    );
    assert_eq!(kind("~"), ScalarKind::Null);
    assert_eq!(kind("!!str 5"), ScalarKind::Text);
}

#[test]
fn lines_are_those_of_the_file() {
    let text = "\u{feff}# note\n---\na: 1\n--- # next\r\nb:\r\n- 2\r\n...\n---\n---\nc: 3";
    let found: Vec<Node> = documents(text, &Limits::default())
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].line, 3);
    match &found[1].field("b").unwrap().value {
        Value::Sequence(items) => assert_eq!(items[0].line, 6),
        other => panic!("{other:?}"),
    }
    assert_eq!(found[2].line, 10);
}

#[test]
fn a_duplicate_key_is_refused_at_its_line() {
    let refused = refusal("a: 1\nb: 2\na: 3\n");
    assert_eq!(refused.line, 3);
    assert!(refused.message.contains("set twice"));
}

#[test]
fn a_billion_laughs_are_refused_quickly() {
    let mut text = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..40 {
        let previous = format!("*a{}, ", i - 1).repeat(9);
        text.push_str(&format!("a{i}: &a{i} [{previous}]\n"));
    }
    assert!(
        refusal(&text)
            .message
            .contains("counting what its aliases stand for")
    );
}

#[test]
fn a_long_text_behind_many_aliases_is_refused() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(1000));
    assert!(refusal(&text).message.contains("bytes"));
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    for text in [
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(100_000),
        "? ".repeat(50_000),
    ] {
        assert!(documents(&text, &Limits::default()).iter().any(Result::is_err));
    }
}

#[test]
fn aliases_to_themselves_and_to_nothing_are_refused() {
    assert!(refusal("a: &a [*a]\n").message.contains("alias"));
    assert_eq!(refusal("a: 1\nb: *nobody\n").line, 2);
}

#[test]
fn templates_and_other_things_that_are_not_yaml_are_refused() {
    refusal("name: {{ .Values.name }}\n");
    refusal("a: b: c\n");
    refusal("\"unfinished");
    refusal("a: \u{0}\n");
    assert!(documents("", &Limits::default()).is_empty());
    assert!(documents("---\n# only a comment\n", &Limits::default()).is_empty());
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let limits = Limits {
        file_bytes: 10,
        ..Limits::default()
    };
    assert!(documents("a: 1234567890", &limits)[0].is_err());
}

#[test]
fn no_prefix_of_a_text_panics() {
    let text = "a: &x {b: 'c\\u00e9', d: [1, *x]}\n--- |\n  text\n---\n<<: [*x]\n? k\n: !!int '5'\n";
    for end in (0..text.len()).filter(|i| text.is_char_boundary(*i)) {
        let _ = documents(&text[..end], &Limits::default());
    }
}
