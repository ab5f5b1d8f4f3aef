use serde_json::{Value, json};

use super::{TemplateError, Templates};

fn render(text: &str, values: Value) -> Result<String, TemplateError> {
    let mut templates = Templates::default();
    templates.add(
        "_names.tpl",
        "{{- define \"name\" -}}\n{{ .Values.name | default \"istiod\" }}-{{ $.Values.rev }}\n{{- end }}",
    )?;
    templates.add("t.yaml", text)?;
    templates.render("t.yaml", &json!({ "Values": values }))
}

fn ok(text: &str, values: Value) -> String {
    render(text, values).unwrap()
}

#[test]
fn text_is_kept_and_blanks_are_trimmed_where_dashes_say_so() {
    assert_eq!(ok("a: {{ .Values.x }}\nb: 1\n", json!({"x": 5})), "a: 5\nb: 1\n");
    assert_eq!(
        ok(
            "a\n  {{- if .Values.x }}\n  b\n  {{- end }}\nc",
            json!({"x": true})
        ),
        "a\n  b\nc"
    );
    assert_eq!(
        ok("a\n  {{- if .Values.x }}\n  b\n  {{- end }}\nc", json!({})),
        "a\nc"
    );
    assert_eq!(ok("a {{- /* gone }} */ -}} b{{/* gone */}}", json!({})), "ab");
    assert_eq!(ok("{{ \"{{ x }}\" }}{{ `a\"b` }}", json!({})), "{{ x }}a\"b");
}

#[test]
fn the_first_arm_that_holds_is_taken() {
    let text =
        "{{ if eq .Values.x 1 }}one{{ else if or (eq .Values.x 2) .Values.y }}two{{ else }}more{{ end }}";
    assert_eq!(ok(text, json!({"x": 1})), "one");
    assert_eq!(ok(text, json!({"x": 2})), "two");
    assert_eq!(ok(text, json!({"x": 3, "y": ["z"]})), "two");
    assert_eq!(ok(text, json!({"x": 3, "y": []})), "more");
    assert_eq!(
        ok(
            "{{ if and .Values.a (not .Values.b) }}y{{ end }}",
            json!({"a": "x", "b": 0})
        ),
        "y"
    );
}

#[test]
fn lists_and_mappings_are_ranged_over_in_go_order() {
    let text = "{{ range $i, $v := .Values.l }}{{ $i }}={{ $v }}{{ . }} {{ end }}{{ range $k, $v := .Values.m }}{{ $k }}:{{ $v }} {{ else }}none{{ end }}";
    assert_eq!(
        ok(text, json!({"l": ["a", "b"], "m": {"z": 1, "b": 2}})),
        "0=aa 1=bb b:2 z:1 "
    );
    assert_eq!(ok(text, json!({"l": [], "m": null})), "none");
}

#[test]
fn variables_end_with_their_block_and_assignments_reach_out() {
    let text = "{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ $y }}{{ end }}{{ $x }}";
    assert_eq!(ok(text, json!({})), "32");
    let error = render("\n{{ if true }}{{ $y := 3 }}{{ end }}{{ $y }}", json!({})).unwrap_err();
    assert_eq!(error.to_string(), "t.yaml:2: $y is not declared");
}

#[test]
fn with_moves_the_dot_and_the_root_stays_in_reach() {
    let text = "{{ with .Values.a }}{{ .b }}{{ $.Values.c }}{{ else }}no{{ end }}";
    assert_eq!(ok(text, json!({"a": {"b": 1}, "c": 2})), "12");
    assert_eq!(ok(text, json!({})), "no");
}

#[test]
fn pipes_functions_and_definitions_work_as_in_helm() {
    assert_eq!(
        ok("{{ include \"name\" . }}", json!({"rev": "canary"})),
        "istiod-canary"
    );
    assert_eq!(
        ok(
            "{{ include \"name\" . | quote }}",
            json!({"rev": "a", "name": "b"})
        ),
        "\"b-a\""
    );
    assert_eq!(
        ok(
            "env:\n  {{- toYaml .Values.env | nindent 2 }}\n",
            json!({"env": {"B": "yes", "A": 1}})
        ),
        "env:\n  A: 1\n  B: \"yes\"\n"
    );
    assert_eq!(
        ok("{{ printf \"%s-%d%%\" .Values.a 3 }}", json!({"a": "x"})),
        "x-3%"
    );
    assert_eq!(
        ok("{{ trimSuffix \"-net\" .Values.n }}", json!({"n": "us-net"})),
        "us"
    );
    assert_eq!(
        ok(
            "{{ toJson (merge (dict \"a\" 1) (dict \"a\" 2 \"b\" 3)) }}",
            json!({})
        ),
        r#"{"a":1,"b":3}"#
    );
    assert_eq!(
        ok(
            "{{ eq .Values.a \"x\" \"y\" }}{{ ne .Values.a .Values.b }}",
            json!({"a": "y", "b": "z"})
        ),
        "truetrue"
    );
    assert_eq!(ok("{{ .Values.missing }}", json!({})), "");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let wrong = |text: &str| render(text, json!({"s": "x", "m": {}})).unwrap_err().to_string();
    assert_eq!(
        wrong("\n\n{{ nope 1 }}"),
        "t.yaml:3: nope cannot be called with 1"
    );
    assert_eq!(wrong("{{ .Values.s.t }}"), "t.yaml:1: \"x\" has no field t");
    assert_eq!(
        wrong("{{ .Values.m }}"),
        "t.yaml:1: {} is printed without toYaml or toJson"
    );
    assert_eq!(wrong("{{ if true }}"), "t.yaml:1: if without end");
    assert_eq!(wrong("{{ end }}"), "t.yaml:1: end without a beginning");
    assert_eq!(wrong("{{ (1 }}"), "t.yaml:1: a parenthesis is not closed");
    assert_eq!(wrong("{{ \"x"), "t.yaml:1: an action is not closed by }}");
    assert_eq!(
        wrong("{{ required \"say a network\" .Values.n }}"),
        "t.yaml:1: say a network"
    );
    assert_eq!(
        wrong("{{ include \"unknown\" . }}"),
        "t.yaml:1: \"unknown\" is not defined"
    );
}
