//! `isthmus sample` and `isthmus fetch`: the programs that play the applications of the demo.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use isthmus_sandbox::apps::{self, fetch};

use super::exit;
use super::sandbox::write_out;

/// Run a sample application: echo, httpbin, sleep, productpage, details, reviews, ratings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus sample echo --port 8080")]
pub struct Sample {
    /// Which one.
    name: String,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub fn sample(args: Sample) -> anyhow::Result<ExitCode> {
    use isthmus_runtime::logging::{Format, Levels, Output, init};
    init(Levels::default(), Format::Text, Output::Stdout)?;
    Ok(apps::run(&args.name, &args.args)?)
}

/// Fetch a URL as an application would, once or many times.
///
/// One request prints the answer. With --count or --duration the result is a JSON summary: answers by
/// status, failures with their time, the longest gap between two successes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus fetch http://127.0.0.1:8080/headers\n  isthmus exec us/sleep -- isthmus fetch http://reviews:9080/reviews/0 --count 100 --tally served_by.version"
)]
pub struct Fetch {
    /// http://HOST[:PORT]/PATH
    url: String,
    /// Method.
    #[arg(long, short = 'X', default_value = "GET")]
    method: String,
    /// Request header, as in 'Host: bookinfo.example.com'.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Request body.
    #[arg(long, short, default_value = "")]
    data: String,
    /// Print status and header fields too.
    #[arg(long, short)]
    include: bool,
    /// Requests in all.
    #[arg(long)]
    count: Option<u64>,
    /// Seconds in all.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Requests at a time.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Milliseconds between the requests of one connection.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pause: u64,
    /// A new connection for every request.
    #[arg(long)]
    close: bool,
    /// Seconds for one request.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    timeout: f64,
    /// Count answers by this field of their JSON body, as in version or headers.host.
    #[arg(long, value_name = "FIELD")]
    tally: Option<String>,
}

pub fn fetch(args: Fetch) -> anyhow::Result<ExitCode> {
    let seconds =
        |s: f64| Duration::try_from_secs_f64(s).map_err(|_| anyhow!("{s} is not a time in seconds"));
    let headers = args.header.iter().map(|h| {
        let (name, value) = h
            .split_once(':')
            .ok_or_else(|| anyhow!("{h:?} is not a header; write NAME: VALUE"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    let plan = fetch::Plan {
        url: args.url,
        method: args.method,
        headers: headers.collect::<anyhow::Result<_>>()?,
        body: args.data,
        count: args.count,
        duration: args.duration.map(seconds).transpose()?,
        concurrency: args.concurrency,
        pause: Duration::from_millis(args.pause),
        close: args.close,
        timeout: seconds(args.timeout)?,
        tally: args.tally,
    };
    if plan.count.is_some() || plan.duration.is_some() {
        write_out(format!(
            "{}\n",
            serde_json::to_string_pretty(&fetch::many(&plan)?)?
        ))?;
        return Ok(ExitCode::from(exit::OK));
    }
    let answer = fetch::once(&plan).map_err(|e| anyhow!("{}: {e}", plan.url))?;
    let mut text = String::new();
    if args.include {
        let _ = writeln!(text, "HTTP/1.1 {}", answer.status);
        for (name, value) in &answer.headers {
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push('\n');
    }
    write_out(text)?;
    write_out(&answer.body)?;
    Ok(ExitCode::from(exit::OK))
}
