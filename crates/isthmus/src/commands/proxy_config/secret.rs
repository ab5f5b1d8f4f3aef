//! Certificates and roots of a proxy, without keys.

use std::process::ExitCode;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use isthmus_pki::Certificate;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::dump::text;
use super::{Common, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dump = args.common.dump()?;
    let secrets = dump.secrets();
    let resources: Vec<&Value> = secrets.iter().map(|(_, entry)| *entry).collect();
    args.common.show(&table(&secrets), &resources)
}

/// A row for the first certificate of a chain, and for each root.
pub fn table(secrets: &[(&'static str, &Value)]) -> Table {
    let now = SystemTime::now();
    let mut rows = Vec::new();
    for (state, entry) in secrets {
        let name = text(entry, "name");
        let secret = &entry["secret"];
        let chain = &secret["tls_certificate"]["certificate_chain"];
        let roots = &secret["validation_context"]["trusted_ca"];
        let (kind, certificates) = if chain.is_null() {
            ("CA", certificates(roots))
        } else {
            ("Cert Chain", certificates(chain).into_iter().take(1).collect())
        };
        if certificates.is_empty() {
            rows.push(
                [name, kind, state, "false", "", "", ""]
                    .map(str::to_owned)
                    .to_vec(),
            );
        }
        for certificate in certificates {
            let valid = (certificate.not_before..=certificate.not_after).contains(&now);
            rows.push(vec![
                name.to_owned(),
                kind.to_owned(),
                (*state).to_owned(),
                valid.to_string(),
                certificate.serial.replace(':', "").to_lowercase(),
                moment(certificate.not_after),
                moment(certificate.not_before),
            ]);
        }
    }
    Table {
        header: &[
            "SECRET NAME",
            "TYPE",
            "STATUS",
            "VALID",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE",
        ],
        rows,
    }
}

/// The certificates of a `core.v3.DataSource`; none when it holds none that can be read.
fn certificates(source: &Value) -> Vec<Certificate> {
    let pem = match (source["inline_bytes"].as_str(), source["inline_string"].as_str()) {
        (Some(bytes), _) => BASE64_STANDARD.decode(bytes).unwrap_or_default(),
        (None, Some(text)) => text.as_bytes().to_vec(),
        (None, None) => Vec::new(),
    };
    Certificate::parse_pem(&pem).unwrap_or_default()
}

/// RFC 3339 in UTC, to the second.
fn moment(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}
