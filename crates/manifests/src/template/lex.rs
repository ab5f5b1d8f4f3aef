//! Text to pieces: what stands between `{{` and `}}`, as tokens, and what stands outside.

use serde_json::Value;

use super::TemplateError;

/// A piece of a file.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(u32, Vec<Token>),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `if`, `include`, `toYaml`.
    Word(String),
    /// `.name` that begins an operand; `.` alone is [`Token::Dot`].
    Field(String),
    /// `.name` that follows one without a blank.
    Step(String),
    Dot,
    Variable(String),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

/// Splits a file, trimming blanks where `{{-` and `-}}` say so. Comments disappear.
pub(super) fn pieces(template: &str, text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut found = Vec::new();
    let (mut rest, mut line, mut trim) = (text, 1_u32, false);
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (rest, None),
        };
        let trims_before = action.is_some_and(|a| a.starts_with("- ") || a.starts_with("-\n"));
        let mut kept = before;
        if trim {
            kept = kept.trim_start();
        }
        if trims_before {
            kept = kept.trim_end();
        }
        if !kept.is_empty() {
            found.push(Piece::Text(kept.to_owned()));
        }
        line += lines(before);
        let Some(action) = action else {
            return Ok(found);
        };
        let error = |message: &str| TemplateError {
            template: template.to_owned(),
            line,
            message: message.to_owned(),
        };
        let action = if trims_before { &action[1..] } else { action };
        let end = end(action).ok_or_else(|| error("an action is not closed by }}"))?;
        let mut inner = &action[..end];
        trim = inner.ends_with(" -") || inner.ends_with("\n-");
        if trim {
            inner = &inner[..inner.len() - 1];
        }
        let inner_trimmed = inner.trim();
        if !inner_trimmed.starts_with("/*") {
            let tokens = tokens(inner_trimmed).map_err(|message| error(&message))?;
            found.push(Piece::Action(line, tokens));
        }
        line += lines(&action[..end]);
        rest = &action[end + 2..];
    }
}

fn lines(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX)
}

/// Where `}}` stands, outside of strings and comments.
fn end(action: &str) -> Option<usize> {
    if action.trim_start().starts_with("/*") {
        let comment = action.find("*/")?;
        return action[comment..].find("}}").map(|i| comment + i);
    }
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in action.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if action[i..].starts_with("}}") => return Some(i),
            None => {}
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut blank = true;
    let name_end = |s: &str| {
        s.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(s.len())
    };
    while let Some(c) = rest.chars().next() {
        let mut take = 1;
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '|' => found.push(Token::Pipe),
            '(' => found.push(Token::Open),
            ')' => found.push(Token::Close),
            ',' => found.push(Token::Comma),
            '=' => found.push(Token::Assign),
            ':' if rest.starts_with(":=") => {
                found.push(Token::Declare);
                take = 2;
            }
            '.' => {
                let name = &rest[1..1 + name_end(&rest[1..])];
                take += name.len();
                found.push(match (name.is_empty(), blank) {
                    (true, _) => Token::Dot,
                    (false, true) => Token::Field(name.to_owned()),
                    (false, false) => Token::Step(name.to_owned()),
                });
            }
            '$' => {
                let name = &rest[1..1 + name_end(&rest[1..])];
                take += name.len();
                found.push(Token::Variable(name.to_owned()));
            }
            '"' => {
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                let value = stream
                    .next()
                    .and_then(Result::ok)
                    .ok_or_else(|| format!("not a string: {rest}"))?;
                take = stream.byte_offset();
                found.push(Token::Literal(Value::String(value)));
            }
            '`' => {
                let (raw, _) = rest[1..]
                    .split_once('`')
                    .ok_or_else(|| format!("not a string: {rest}"))?;
                take = raw.len() + 2;
                found.push(Token::Literal(Value::String(raw.to_owned())));
            }
            '0'..='9' | '-' => {
                take = 1 + name_end(&rest[1..]);
                let number: i64 = rest[..take]
                    .parse()
                    .map_err(|_| format!("not a number: {}", &rest[..take]))?;
                found.push(Token::Literal(number.into()));
            }
            c if c.is_ascii_alphabetic() => {
                take = name_end(rest);
                found.push(match &rest[..take] {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    word => Token::Word(word.to_owned()),
                });
            }
            c => return Err(format!("{c:?} means nothing here")),
        }
        blank = c.is_whitespace() || matches!(c, '(' | '|' | ',' | '=');
        rest = &rest[take..];
    }
    Ok(found)
}
