//! `isthmus redirect`: a pod's traffic through its proxy, programmed in the network namespace in which
//! the command runs; what Istio's init container `istio-iptables` does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use isthmus_redirect::capture::{self, Exempt, MARK, Plan, ProxyPorts, Selection};
use isthmus_redirect::nft::Version;

use super::exit;

/// Redirect a pod's traffic through its proxy, in this network namespace.
///
/// What Istio's init container does with iptables, without any other program. It changes the network
/// namespace in which it runs; see what it would do with --dry-run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus redirect apply --dry-run nft\n  isthmus redirect apply --annotation excludeOutboundPorts=3306\n  isthmus redirect verify"
)]
pub struct Args {
    #[command(subcommand)]
    command: Redirect,
}

#[derive(Debug, Subcommand)]
enum Redirect {
    /// Capture traffic, in the place of an older capture, and check that the kernel took it.
    Apply {
        #[command(flatten)]
        plan: PlanArgs,
        /// Print the rules in this form and change nothing.
        #[arg(long, value_name = "FORM")]
        dry_run: Option<Form>,
    },
    /// Compare what the kernel holds with the plan. Exits with 1 when they differ.
    Verify(PlanArgs),
    /// Remove capture.
    Clean,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// As `nft -f` reads it; this is what is programmed.
    Nft,
    /// As `iptables-restore` reads it, to compare with Istio's.
    Iptables,
    /// As `ip6tables-restore` reads it.
    Ip6tables,
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// An annotation of the pod; `traffic.sidecar.istio.io/` may be left out.
    #[arg(long = "annotation", value_name = "NAME=VALUE", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// The pod's annotations as the downward API writes them.
    #[arg(long, value_name = "FILE")]
    annotations_file: Option<PathBuf>,
    /// Mark of the proxy's sockets, which are left alone.
    #[arg(long, value_name = "MARK", value_parser = number, default_value_t = MARK)]
    mark: u32,
    /// A user whose traffic is the proxy's own.
    #[arg(long = "uid", value_name = "UID")]
    uids: Vec<u32>,
    /// A group whose traffic is the proxy's own.
    #[arg(long = "gid", value_name = "GID")]
    gids: Vec<u32>,
    /// Where the proxy takes outbound connections.
    #[arg(long, value_name = "PORT", default_value_t = ProxyPorts::default().outbound)]
    outbound_port: u16,
    /// Where the proxy takes inbound connections.
    #[arg(long, value_name = "PORT", default_value_t = ProxyPorts::default().inbound)]
    inbound_port: u16,
    /// Where the proxy answers DNS.
    #[arg(long, value_name = "PORT", default_value_t = 15053)]
    dns_port: u16,
    /// Leave DNS alone.
    #[arg(long)]
    no_dns: bool,
    /// Whose name servers' traffic is captured.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Capture DNS to every server, not those of resolv.conf alone.
    #[arg(long)]
    all_dns: bool,
    /// Leave IPv6 alone.
    #[arg(long)]
    ipv4_only: bool,
}

/// Runs the command to its end.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Redirect::Apply {
            plan,
            dry_run: Some(form),
        } => {
            let plan = plan.resolve()?;
            match form {
                Form::Nft => out!("{}", plan.table()),
                Form::Iptables => out!("{}", plan.iptables(Version::V4)),
                Form::Ip6tables => out!("{}", plan.iptables(Version::V6)),
            }
        }
        Redirect::Apply { plan, dry_run: None } => {
            let plan = plan.resolve()?;
            plan.apply()?;
            plan.verify()?;
        }
        Redirect::Verify(plan) => plan.resolve()?.verify()?,
        Redirect::Clean => capture::clean()?,
    }
    Ok(ExitCode::from(exit::OK))
}

impl PlanArgs {
    fn resolve(self) -> anyhow::Result<Plan> {
        let mut annotations = BTreeMap::new();
        if let Some(file) = &self.annotations_file {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            annotations = capture::downward_annotations(&text);
        }
        annotations.extend(self.annotations);
        let dns = (!self.no_dns).then_some(self.dns_port);
        let resolvers: Selection<IpAddr> = match dns {
            None => Selection::Only(Vec::new()),
            Some(_) if self.all_dns => Selection::All,
            Some(_) => {
                let file = &self.resolv_conf;
                let text = std::fs::read_to_string(file).with_context(|| {
                    format!(
                        "read {} (--resolv-conf names another, --all-dns needs none)",
                        file.display()
                    )
                })?;
                let found = capture::resolvers(&text);
                if found == Selection::Only(Vec::new()) {
                    bail!("{} names no server: use --all-dns or --no-dns", file.display());
                }
                found
            }
        };
        let plan = Plan {
            ports: ProxyPorts {
                outbound: self.outbound_port,
                inbound: self.inbound_port,
                dns,
            },
            exempt: Exempt {
                mark: Some(self.mark),
                uids: self.uids,
                gids: self.gids,
            },
            resolvers,
            ipv6: !self.ipv4_only,
            ..Plan::default()
        };
        Ok(plan.with_annotations(&annotations)?)
    }
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let name = match name.contains('/') {
        true => name.to_owned(),
        false => format!("{}{name}", capture::ANNOTATION_PREFIX),
    };
    Ok((name, value.to_owned()))
}

/// A number, decimal or as `0x539`.
fn number(text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        plan: PlanArgs,
    }

    fn plan(arguments: &[&str]) -> anyhow::Result<Plan> {
        let all = ["redirect"].iter().chain(arguments);
        <Cli as clap::Parser>::try_parse_from(all)?.plan.resolve()
    }

    #[test]
    fn flags_and_annotations_make_the_plan() {
        let p = plan(&[
            "--all-dns",
            "--annotation=excludeOutboundPorts=25,465",
            "--annotation=traffic.sidecar.istio.io/excludeInboundPorts=22",
            "--mark=0x10",
            "--uid=1337",
            "--ipv4-only",
        ])
        .unwrap();
        assert_eq!(p.exclude_outbound_ports, [25, 465].into());
        assert_eq!(p.exclude_inbound, [22].into());
        assert_eq!((p.exempt.mark, p.exempt.uids), (Some(16), vec![1337]));
        assert_eq!(p.resolvers, Selection::All);
        assert!(!p.ipv6);
        assert_eq!(plan(&["--no-dns"]).unwrap().ports.dns, None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (arguments, word) in [
            (&["--resolv-conf=/no/such/file"][..], "--all-dns"),
            (&["--resolv-conf=/dev/null"], "names no server"),
            (
                &["--no-dns", "--annotation=excludeOutboundPorts=http"],
                "excludeOutboundPorts",
            ),
            (&["--no-dns", "--annotation=nonsense"], "NAME=VALUE"),
        ] {
            let e = format!("{:#}", plan(arguments).unwrap_err());
            assert!(e.contains(word), "{e}");
        }
    }
}
