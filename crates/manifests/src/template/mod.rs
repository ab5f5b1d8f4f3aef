//! Helm's template language, as far as our charts use it.
//!
//! The charts under `deploy/charts` are the one source of the objects: Helm renders them with Go's
//! `text/template`, `isthmus install` renders them with this. What our charts do not use is not here and is
//! an error that names the template and line. Nothing of a user's is ever parsed as a template: values are data.
//!
//! ```text
//!   text ─ lex ─> Token ─ parse ─> Node, Expr ─ render(values) ─> text ─ api::yaml ─> objects
//! ```

mod function;
mod lex;
mod parse;
mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

/// Why a template cannot be parsed or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{template}:{line}: {message}")]
pub struct TemplateError {
    /// Name of the template's file.
    pub template: String,
    /// Line in it, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// The templates of one chart, which see each other's definitions.
#[derive(Debug, Default)]
pub struct Templates {
    files: BTreeMap<String, Vec<Node>>,
    defined: BTreeMap<String, (String, Vec<Node>)>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Output(u32, Expr),
    /// `if`, `else if`: the first arm that is true.
    If(u32, Vec<(Expr, Vec<Node>)>, Vec<Node>),
    With(u32, Expr, Vec<Node>, Vec<Node>),
    Range {
        line: u32,
        key: Option<String>,
        item: Option<String>,
        over: Expr,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `$x := expr` (declares) and `$x = expr` (changes).
    Set {
        line: u32,
        name: String,
        declares: bool,
        value: Expr,
    },
}

/// What is evaluated; a pipeline `a | f b` is the call `f b a`.
#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Literal(Value),
    /// `.`
    Dot,
    /// `$name`; `$` is the variable without a name.
    Variable(String),
    Field(Box<Expr>, String),
    Call(String, Vec<Expr>),
}

impl Templates {
    /// Adds a file. Those whose name begins with `_` hold definitions and yield nothing themselves.
    ///
    /// # Errors
    /// It is no template of the language above.
    pub fn add(&mut self, name: &str, text: &str) -> Result<(), TemplateError> {
        let nodes = parse::parse(name, text, &mut self.defined)?;
        if !name.rsplit('/').next().unwrap_or(name).starts_with('_') {
            self.files.insert(name.to_owned(), nodes);
        }
        Ok(())
    }

    /// Names of the files that yield text, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Renders one file. `root` is what `.` and `$` are: `Values`, `Release`, `Chart`, `Files`.
    ///
    /// # Errors
    /// A value is not of the type that the template needs, or the template calls `fail`.
    pub fn render(&self, name: &str, root: &Value) -> Result<String, TemplateError> {
        let nodes = self.files.get(name).map(Vec::as_slice).unwrap_or_default();
        render::render(self, name, nodes, root)
    }
}
