//! Pieces to nodes and expressions.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::lex::{Piece, Token, pieces};
use super::{Expr, Node, TemplateError};

/// Parses one file; `define`d templates go to `defined`.
pub(super) fn parse(
    template: &str,
    text: &str,
    defined: &mut BTreeMap<String, (String, Vec<Node>)>,
) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        template,
        pieces: pieces(template, text)?.into_iter(),
        defined,
    };
    match parser.block()? {
        (nodes, None) => Ok(nodes),
        (_, Some((line, word, _))) => Err(parser.error(line, format!("{word} without a beginning"))),
    }
}

/// What ends a block: its line, `else` or `end`, and what stands behind `else`.
type End = Option<(u32, String, Vec<Token>)>;

struct Parser<'a> {
    template: &'a str,
    pieces: IntoIter<Piece>,
    defined: &'a mut BTreeMap<String, (String, Vec<Node>)>,
}

impl Parser<'_> {
    fn error(&self, line: u32, message: impl Into<String>) -> TemplateError {
        TemplateError {
            template: self.template.to_owned(),
            line,
            message: message.into(),
        }
    }

    fn block(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (line, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(line, tokens) => (line, tokens),
            };
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            match word {
                "if" => nodes.push(self.conditional(line, tokens[1..].to_vec())?),
                "with" => {
                    let over = self.expression(line, tokens[1..].to_vec())?;
                    let (body, otherwise) = self.body_and_else(line)?;
                    nodes.push(Node::With(line, over, body, otherwise));
                }
                "range" => nodes.push(self.range(line, tokens[1..].to_vec())?),
                "define" => {
                    let Some(Token::Literal(serde_json::Value::String(name))) = tokens.get(1).cloned() else {
                        return Err(self.error(line, "define needs a name"));
                    };
                    let (body, end) = self.block()?;
                    if !matches!(&end, Some((_, word, _)) if word == "end") {
                        return Err(self.error(line, "define without end"));
                    }
                    self.defined.insert(name, (self.template.to_owned(), body));
                }
                "else" | "end" => return Ok((nodes, Some((line, word.to_owned(), tokens[1..].to_vec())))),
                _ => nodes.push(self.output(line, tokens)?),
            }
        }
        Ok((nodes, None))
    }

    fn conditional(&mut self, line: u32, condition: Vec<Token>) -> Result<Node, TemplateError> {
        let mut arms = Vec::new();
        let mut condition = self.expression(line, condition)?;
        loop {
            let (body, end) = self.block()?;
            arms.push((condition, body));
            match end {
                Some((_, word, _)) if word == "end" => return Ok(Node::If(line, arms, Vec::new())),
                Some((at, _, rest)) => match rest.split_first() {
                    None => {
                        let (otherwise, _) = self.block()?;
                        return Ok(Node::If(line, arms, otherwise));
                    }
                    Some((Token::Word(word), rest)) if word == "if" => {
                        condition = self.expression(at, rest.to_vec())?;
                    }
                    Some(_) => return Err(self.error(at, "else is followed by if or nothing")),
                },
                None => return Err(self.error(line, "if without end")),
            }
        }
    }

    fn body_and_else(&mut self, line: u32) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let (body, end) = self.block()?;
        match end {
            Some((_, word, _)) if word == "end" => Ok((body, Vec::new())),
            Some((_, _, rest)) if rest.is_empty() => Ok((body, self.block()?.0)),
            _ => Err(self.error(line, "the block has no end")),
        }
    }

    fn range(&mut self, line: u32, mut tokens: Vec<Token>) -> Result<Node, TemplateError> {
        let (mut key, mut item) = (None, None);
        if let Some(at) = tokens.iter().position(|t| *t == Token::Declare) {
            let names: Vec<String> = tokens
                .drain(..=at)
                .filter_map(|t| match t {
                    Token::Variable(name) => Some(name),
                    _ => None,
                })
                .collect();
            match names.as_slice() {
                [one] => item = Some(one.clone()),
                [first, second] => (key, item) = (Some(first.clone()), Some(second.clone())),
                _ => return Err(self.error(line, "range declares one or two variables")),
            }
        }
        let over = self.expression(line, tokens)?;
        let (body, otherwise) = self.body_and_else(line)?;
        Ok(Node::Range {
            line,
            key,
            item,
            over,
            body,
            otherwise,
        })
    }

    fn output(&self, line: u32, tokens: Vec<Token>) -> Result<Node, TemplateError> {
        if let [
            Token::Variable(name),
            how @ (Token::Declare | Token::Assign),
            rest @ ..,
        ] = tokens.as_slice()
        {
            return Ok(Node::Set {
                line,
                name: name.clone(),
                declares: *how == Token::Declare,
                value: self.expression(line, rest.to_vec())?,
            });
        }
        Ok(Node::Output(line, self.expression(line, tokens)?))
    }

    fn expression(&self, line: u32, tokens: Vec<Token>) -> Result<Expr, TemplateError> {
        let mut tokens = tokens.into_iter().peekable();
        let expr = pipeline(&mut tokens).map_err(|message| self.error(line, message))?;
        match tokens.next() {
            None => Ok(expr),
            Some(token) => Err(self.error(line, format!("{token:?} is not expected here"))),
        }
    }
}

fn pipeline(tokens: &mut Peekable<IntoIter<Token>>) -> Result<Expr, String> {
    let mut value = command(tokens, None)?;
    while tokens.next_if_eq(&Token::Pipe).is_some() {
        value = command(tokens, Some(value))?;
    }
    Ok(value)
}

/// A function with its arguments, or an operand alone; `last` is what comes through the pipe.
fn command(tokens: &mut Peekable<IntoIter<Token>>, last: Option<Expr>) -> Result<Expr, String> {
    if let Some(Token::Word(_)) = tokens.peek() {
        let Some(Token::Word(name)) = tokens.next() else {
            return Err("a function is expected".to_owned());
        };
        let mut arguments = Vec::new();
        while !matches!(tokens.peek(), None | Some(Token::Pipe | Token::Close)) {
            arguments.push(operand(tokens)?);
        }
        arguments.extend(last);
        return Ok(Expr::Call(name, arguments));
    }
    if last.is_some() {
        return Err("a pipe leads to a function".to_owned());
    }
    let value = operand(tokens)?;
    // The two methods that charts have: `.Files.Get "path"` and `.Files.Glob "pattern"`.
    match value {
        Expr::Field(of, name)
            if matches!(name.as_str(), "Get" | "Glob")
                && matches!(tokens.peek(), Some(Token::Literal(_) | Token::Variable(_))) =>
        {
            Ok(Expr::Call(format!("Files.{name}"), vec![*of, operand(tokens)?]))
        }
        value => Ok(value),
    }
}

fn operand(tokens: &mut Peekable<IntoIter<Token>>) -> Result<Expr, String> {
    let mut value = match tokens.next() {
        Some(Token::Dot) => Expr::Dot,
        Some(Token::Field(name)) => Expr::Field(Box::new(Expr::Dot), name),
        Some(Token::Variable(name)) => Expr::Variable(name),
        Some(Token::Literal(value)) => return Ok(Expr::Literal(value)),
        // A function without arguments, as an argument: `list`.
        Some(Token::Word(name)) => return Ok(Expr::Call(name, Vec::new())),
        Some(Token::Open) => {
            let inner = pipeline(tokens)?;
            if tokens.next() != Some(Token::Close) {
                return Err("a parenthesis is not closed".to_owned());
            }
            inner
        }
        other => return Err(format!("{other:?} is no operand")),
    };
    while let Some(Token::Step(_)) = tokens.peek() {
        if let Some(Token::Step(name)) = tokens.next() {
            value = Expr::Field(Box::new(value), name);
        }
    }
    Ok(value)
}
