//! One tree of values laid over another, as Helm and IstioOperator files do it.

use serde_json::{Map, Value};

/// Lays `over` on `base`: mappings are merged, `null` removes, anything else replaces.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, Value::Object(over)) => {
            *base = Value::Object(Map::new());
            merge(base, &Value::Object(over.clone()));
        }
        (base, over) => *base = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mappings_are_merged_lists_replaced_and_nulls_remove() {
        let mut base = json!({"a": {"x": 1, "y": 2}, "l": [1, 2], "gone": 1});
        merge(
            &mut base,
            &json!({"a": {"y": 3, "z": {"n": null, "m": 4}}, "l": [3], "gone": null}),
        );
        assert_eq!(base, json!({"a": {"x": 1, "y": 3, "z": {"m": 4}}, "l": [3]}));
    }
}
