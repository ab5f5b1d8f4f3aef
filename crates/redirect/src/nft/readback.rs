//! What the kernel holds, compared with what was programmed.

use super::batch::{
    NFGEN, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM,
    NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_TABLE_NAME,
    hook_kind, hook_number, inet, kind,
};
use super::expression::{Sets, write};
use super::{Rule, Table};
use crate::netlink::{Attributes, HEADER, Message, Protocol, Socket, Subject};
use crate::{Error, Result};

/// Name of an expression and its attributes, by number.
type Expression = (String, Vec<(u16, Vec<u8>)>);

/// Keys of a set, with what they map to, in order.
type Elements = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A table as the kernel holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Chains in the order of their creation: name, and for base chains kind and hook number.
    pub chains: Vec<(String, Option<(String, u32)>)>,
    /// Rules, in order within their chain.
    pub rules: Vec<InstalledRule>,
}

/// A rule as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRule {
    /// Its chain.
    pub chain: String,
    /// Packets counted, where the rule counts.
    pub packets: Option<u64>,
    expressions: Vec<Expression>,
}

/// Names of the `inet` tables of the calling thread's network namespace.
pub fn list_tables() -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut m = Message::new(kind(libc::NFT_MSG_GETTABLE), 0);
    m.fixed(&inet());
    Socket::open(Protocol::Netfilter)?.dump(
        m,
        Subject {
            operation: "list",
            object: "tables",
        },
        |frame| {
            if frame.kind == kind(libc::NFT_MSG_NEWTABLE) {
                let (_, attributes) = frame.split(NFGEN)?;
                if let Some(name) = attributes.find(NFTA_TABLE_NAME)? {
                    names.push(name.text()?.to_owned());
                }
            }
            Ok(())
        },
    )?;
    Ok(names)
}

/// Reads a table; `None` when there is none of this name.
pub fn read(name: &str) -> Result<Option<Installed>> {
    if !list_tables()?.iter().any(|t| t == name) {
        return Ok(None);
    }
    let mut installed = Installed::default();
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let subject = Subject {
        operation: "read table",
        object: name,
    };

    let mut m = Message::new(kind(libc::NFT_MSG_GETCHAIN), 0);
    m.fixed(&inet());
    socket.dump(m, subject, |frame| {
        if frame.kind != kind(libc::NFT_MSG_NEWCHAIN) {
            return Ok(());
        }
        let (_, attributes) = frame.split(NFGEN)?;
        let (mut table, mut chain, mut hook, mut chain_kind) = ("", "", None, "");
        for a in attributes {
            let a = a?;
            match a.kind {
                NFTA_CHAIN_TABLE => table = a.text()?,
                NFTA_CHAIN_NAME => chain = a.text()?,
                NFTA_CHAIN_TYPE => chain_kind = a.text()?,
                NFTA_CHAIN_HOOK => {
                    hook = a
                        .nested()
                        .find(NFTA_HOOK_HOOKNUM)?
                        .map(|h| h.be32())
                        .transpose()?;
                }
                _ => {}
            }
        }
        if table == name {
            installed
                .chains
                .push((chain.to_owned(), hook.map(|h| (chain_kind.to_owned(), h))));
        }
        Ok(())
    })?;

    let mut m = Message::new(kind(libc::NFT_MSG_GETRULE), 0);
    m.fixed(&inet()).text(NFTA_RULE_TABLE, name);
    socket.dump(m, subject, |frame| {
        if frame.kind != kind(libc::NFT_MSG_NEWRULE) {
            return Ok(());
        }
        let (_, attributes) = frame.split(NFGEN)?;
        let (mut table, mut chain, mut expressions) = ("", "", Vec::new());
        for a in attributes {
            let a = a?;
            match a.kind {
                NFTA_RULE_TABLE => table = a.text()?,
                NFTA_RULE_CHAIN => chain = a.text()?,
                NFTA_RULE_EXPRESSIONS => expressions = read_expressions(a.nested())?,
                _ => {}
            }
        }
        if table == name {
            let packets = expressions
                .iter()
                .find(|(n, _)| n == "counter")
                .and_then(|(_, attributes)| {
                    const NFTA_COUNTER_PACKETS: u16 = 2;
                    let (_, v) = attributes.iter().find(|(k, _)| *k == NFTA_COUNTER_PACKETS)?;
                    v.as_slice().try_into().ok().map(u64::from_be_bytes)
                });
            installed.rules.push(InstalledRule {
                chain: chain.to_owned(),
                packets,
                expressions,
            });
        }
        Ok(())
    })?;
    Ok(Some(installed))
}

/// Whether the kernel holds exactly `table`: its chains at their hooks, every rule, and what they look up.
pub fn verify(table: &Table) -> Result<()> {
    let differs = |difference: String| {
        Err(Error::Differs {
            table: table.name.clone(),
            difference,
        })
    };
    let Some(installed) = read(&table.name)? else {
        return differs("it is not there".to_owned());
    };
    if installed.chains.len() != table.chains.len() {
        return differs(format!(
            "it has {} chains, not {}",
            installed.chains.len(),
            table.chains.len()
        ));
    }
    for chain in &table.chains {
        let Some((_, hook)) = installed.chains.iter().find(|(n, _)| *n == chain.name) else {
            return differs(format!("chain {} is not there", chain.name));
        };
        let wanted = chain
            .hook
            .map(|h| (hook_kind(h.kind).to_owned(), hook_number(h.point)));
        if *hook != wanted {
            return differs(format!("chain {} hangs elsewhere", chain.name));
        }
        let rules: Vec<&InstalledRule> = installed.rules.iter().filter(|r| r.chain == chain.name).collect();
        if rules.len() != chain.rules.len() {
            return differs(format!(
                "chain {} has {} rules, not {}",
                chain.name,
                rules.len(),
                chain.rules.len()
            ));
        }
        for (i, (rule, there)) in chain.rules.iter().zip(rules).enumerate() {
            let (expressions, sets) = programmed(rule)?;
            let mut found = same(&expressions, &there.expressions);
            if found {
                for (set, name) in sets.iter().zip(looked_up(&there.expressions)) {
                    found &= *set == elements(&table.name, &name)?;
                }
            }
            if !found {
                return differs(format!("chain {}: rule {} is not `{rule}`", chain.name, i + 1));
            }
        }
    }
    Ok(())
}

/// The expressions that `rule` was programmed with, and the sets they look things up in.
fn programmed(rule: &Rule) -> Result<(Vec<Expression>, Vec<Elements>)> {
    let mut m = Message::new(0, 0);
    let mut sets = Sets::default();
    write(rule, &mut sets, &mut m);
    let bytes = m.finish(0)?;
    let expressions = read_expressions(Attributes::new(bytes.get(HEADER..).unwrap_or_default()))?;
    let sets = sets
        .wanted
        .into_iter()
        .map(|s| {
            let mut elements = s.elements;
            elements.sort();
            elements
        })
        .collect();
    Ok((expressions, sets))
}

/// Names of the sets that a rule looks things up in, in order.
fn looked_up(expressions: &[Expression]) -> Vec<String> {
    let text =
        |v: &[u8]| String::from_utf8_lossy(v.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    expressions
        .iter()
        .filter(|(name, _)| name == "lookup")
        .filter_map(|(_, attributes)| attributes.iter().find(|(k, _)| *k == 1).map(|(_, v)| text(v)))
        .collect()
}

/// What the kernel holds in a set.
fn elements(table: &str, set: &str) -> Result<Elements> {
    let mut elements = Vec::new();
    let mut m = Message::new(kind(libc::NFT_MSG_GETSETELEM), 0);
    m.fixed(&inet())
        .text(NFTA_SET_ELEM_LIST_TABLE, table)
        .text(NFTA_SET_ELEM_LIST_SET, set);
    let subject = Subject {
        operation: "read set",
        object: set,
    };
    Socket::open(Protocol::Netfilter)?.dump(m, subject, |frame| {
        if frame.kind != kind(libc::NFT_MSG_NEWSETELEM) {
            return Ok(());
        }
        let (_, attributes) = frame.split(NFGEN)?;
        let Some(list) = attributes.find(NFTA_SET_ELEM_LIST_ELEMENTS)? else {
            return Ok(());
        };
        for element in list.nested() {
            let element = element?.nested();
            let value = |kind| -> Result<Option<Vec<u8>>> {
                let Some(holder) = element.clone().find(kind)? else {
                    return Ok(None);
                };
                Ok(holder.nested().find(1)?.map(|v| v.value.to_vec()))
            };
            if let Some(key) = value(NFTA_SET_ELEM_KEY)? {
                elements.push((key, value(NFTA_SET_ELEM_DATA)?));
            }
        }
        Ok(())
    })?;
    elements.sort();
    Ok(elements)
}

/// Everything that was programmed is there; the kernel may add what it defaults. Which number an
/// anonymous set was given is the kernel's business.
fn same(wanted: &[Expression], there: &[Expression]) -> bool {
    wanted.len() == there.len()
        && wanted
            .iter()
            .zip(there)
            .all(|((name, attributes), (there_name, there_attributes))| {
                name == there_name
                    && (name == "counter"
                        || attributes.iter().all(|(k, v)| {
                            let set_reference = name == "lookup" && matches!(k, 1 | 4);
                            set_reference || there_attributes.iter().any(|(tk, tv)| tk == k && equal(v, tv))
                        }))
            })
}

/// Equal, apart from the flag that marks nested attributes.
fn equal(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let list = |b| Attributes::new(b).collect::<Result<Vec<_>>>().ok();
    match (list(a), list(b)) {
        (Some(a), Some(b)) if !a.is_empty() && a.len() == b.len() => a
            .iter()
            .zip(&b)
            .all(|(a, b)| a.kind == b.kind && equal(a.value, b.value)),
        _ => false,
    }
}

fn read_expressions(list: Attributes<'_>) -> Result<Vec<Expression>> {
    let mut expressions = Vec::new();
    for element in list {
        let (mut name, mut attributes) = (String::new(), Vec::new());
        for a in element?.nested() {
            let a = a?;
            match a.kind {
                1 => name = a.text()?.to_owned(),
                2 => {
                    for inner in a.nested() {
                        let inner = inner?;
                        attributes.push((inner.kind, inner.value.to_vec()));
                    }
                }
                _ => {}
            }
        }
        expressions.push((name, attributes));
    }
    Ok(expressions)
}
