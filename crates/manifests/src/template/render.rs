//! Nodes and values to text.

use serde_json::{Map, Value};

use super::{Expr, Node, TemplateError, Templates, function};

/// Definitions that include each other; more is a mistake of a chart.
const DEPTH: usize = 32;

pub(super) fn render(
    templates: &Templates,
    name: &str,
    nodes: &[Node],
    root: &Value,
) -> Result<String, TemplateError> {
    let mut out = String::new();
    Frame {
        templates,
        template: name,
        depth: 0,
        line: 1,
        variables: vec![(String::new(), root.clone())],
    }
    .nodes(nodes, root, &mut out)?;
    Ok(out)
}

/// One file or definition being rendered.
struct Frame<'a> {
    templates: &'a Templates,
    template: &'a str,
    depth: usize,
    line: u32,
    /// Innermost last.
    variables: Vec<(String, Value)>,
}

impl Frame<'_> {
    fn error(&self, message: impl Into<String>) -> TemplateError {
        TemplateError {
            template: self.template.to_owned(),
            line: self.line,
            message: message.into(),
        }
    }

    /// Renders a block; what it declares ends with it.
    fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        let result = nodes.iter().try_for_each(|node| self.node(node, dot, out));
        self.variables.truncate(outer);
        result
    }

    fn node(&mut self, node: &Node, dot: &Value, out: &mut String) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Output(line, expr) => {
                self.line = *line;
                let value = self.value(expr, dot)?;
                out.push_str(&function::text(&value).map_err(|message| self.error(message))?);
            }
            Node::Set {
                line,
                name,
                declares,
                value,
            } => {
                self.line = *line;
                let value = self.value(value, dot)?;
                if *declares {
                    self.variables.push((name.clone(), value));
                } else {
                    let known = self.variables.iter_mut().rev().find(|(n, _)| n == name);
                    match known {
                        Some((_, slot)) => *slot = value,
                        None => return Err(self.error(format!("${name} is not declared"))),
                    }
                }
            }
            Node::If(line, arms, otherwise) => {
                self.line = *line;
                for (condition, body) in arms {
                    if function::truth(&self.value(condition, dot)?) {
                        return self.nodes(body, dot, out);
                    }
                }
                self.nodes(otherwise, dot, out)?;
            }
            Node::With(line, over, body, otherwise) => {
                self.line = *line;
                let value = self.value(over, dot)?;
                if function::truth(&value) {
                    self.nodes(body, &value, out)?;
                } else {
                    self.nodes(otherwise, dot, out)?;
                }
            }
            Node::Range {
                line,
                key,
                item,
                over,
                body,
                otherwise,
            } => {
                self.line = *line;
                let entries = match self.value(over, dot)? {
                    Value::Null => Vec::new(),
                    Value::Array(items) => items
                        .into_iter()
                        .enumerate()
                        .map(|(i, v)| (Value::from(i), v))
                        .collect(),
                    Value::Object(fields) => sorted(fields),
                    other => return Err(self.error(format!("cannot range over {other}"))),
                };
                if entries.is_empty() {
                    return self.nodes(otherwise, dot, out);
                }
                for (index, value) in entries {
                    let outer = self.variables.len();
                    if let Some(key) = key {
                        self.variables.push((key.clone(), index));
                    }
                    if let Some(item) = item {
                        self.variables.push((item.clone(), value.clone()));
                    }
                    self.nodes(body, &value, out)?;
                    self.variables.truncate(outer);
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, expr: &Expr, dot: &Value) -> Result<Value, TemplateError> {
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Dot => Ok(dot.clone()),
            Expr::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                match found {
                    Some((_, value)) => Ok(value.clone()),
                    None => Err(self.error(format!("${name} is not declared"))),
                }
            }
            Expr::Field(of, name) => match self.value(of, dot)? {
                Value::Object(mut fields) => Ok(fields.remove(name).unwrap_or(Value::Null)),
                Value::Null => Err(self.error(format!("nothing has no field {name}"))),
                other => Err(self.error(format!("{other} has no field {name}"))),
            },
            Expr::Call(name, arguments) => self.call(name, arguments, dot),
        }
    }

    fn call(&mut self, name: &str, arguments: &[Expr], dot: &Value) -> Result<Value, TemplateError> {
        // These two look at no more arguments than they need.
        if matches!(name, "and" | "or") {
            let mut last = Value::Null;
            for argument in arguments {
                last = self.value(argument, dot)?;
                if function::truth(&last) == (name == "or") {
                    break;
                }
            }
            return Ok(last);
        }
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.value(argument, dot)?);
        }
        if name == "include" {
            return self.include(&values);
        }
        function::call(name, values).map_err(|message| self.error(message))
    }

    fn include(&mut self, arguments: &[Value]) -> Result<Value, TemplateError> {
        let [Value::String(name), dot] = arguments else {
            return Err(self.error("include needs a name and a value"));
        };
        let Some((template, nodes)) = self.templates.defined.get(name) else {
            return Err(self.error(format!("{name:?} is not defined")));
        };
        if self.depth == DEPTH {
            return Err(self.error(format!("{name:?} includes itself")));
        }
        let mut out = String::new();
        Frame {
            templates: self.templates,
            template,
            depth: self.depth + 1,
            line: 1,
            variables: vec![(String::new(), dot.clone())],
        }
        .nodes(nodes, dot, &mut out)?;
        Ok(Value::String(out))
    }
}

/// Go ranges over maps by sorted keys.
fn sorted(fields: Map<String, Value>) -> Vec<(Value, Value)> {
    let mut entries: Vec<(String, Value)> = fields.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.into_iter().map(|(k, v)| (Value::String(k), v)).collect()
}
