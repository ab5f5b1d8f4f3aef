//! `values.schema.json` of the charts, from their `values.yaml` and the table of values without effect.

use serde_json::{Map, Value, json};

use crate::chart::Chart;
use crate::operator::values::{IDLE, is_free};

/// The schema of a chart's values: unknown ones are refused, those of Istio's that do nothing are said to.
pub fn of(chart: Chart) -> Value {
    let mut schema = described("", "", &chart.defaults(), chart != Chart::Gateway);
    if chart == Chart::Base {
        // The same values may be given to both charts.
        schema["properties"]["global"]["additionalProperties"] = Value::from(true);
        schema["additionalProperties"] = Value::from(true);
    }
    schema["$schema"] = Value::from("http://json-schema.org/draft-07/schema#");
    schema["title"] = Value::from(format!("Values of the chart {}", chart.name()));
    schema
}

fn described(name: &str, path: &str, default: &Value, idle: bool) -> Value {
    match default {
        Value::Object(_) if is_free(name, default) => json!({ "type": "object" }),
        Value::Object(fields) => {
            let mut properties: Map<String, Value> = fields
                .iter()
                .map(|(name, default)| {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    (name.clone(), described(name, &path, default, idle))
                })
                .collect();
            let prefix = if path.is_empty() {
                String::new()
            } else {
                format!("{path}.")
            };
            for row in IDLE.iter().filter(|_| idle) {
                let Some(name) = row.path.strip_prefix(&prefix).filter(|rest| !rest.contains('.')) else {
                    continue;
                };
                let text = format!("Has no effect: {}; {}.", row.why, row.instead);
                properties.insert(name.to_owned(), json!({ "description": text }));
            }
            if path.is_empty() {
                // Helm hands every chart the values of its parent's `global`, and Istio's profiles theirs.
                properties
                    .entry("global")
                    .or_insert_with(|| json!({ "type": "object" }));
            }
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Value::Array(_) => json!({ "type": "array" }),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(_) => json!({ "type": "integer" }),
        // Tags and percentages may look like numbers.
        _ => json!({ "type": ["string", "number"] }),
    }
}
