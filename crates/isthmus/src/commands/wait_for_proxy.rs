//! `isthmus wait-for-proxy`: what a classic sidecar's postStart hook runs, so that the application's container
//! starts when the proxy is ready (`holdApplicationUntilProxyStarts`).

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::exit;
use crate::http_get;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Wait until the proxy of this pod is ready.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it says so.
    #[arg(long, default_value = "127.0.0.1:15021", value_name = "HOST:PORT")]
    address: String,
    /// Seconds until the wait is given up.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        match http_get::request("GET", &args.address, "/healthz/ready") {
            Ok(_) => return Ok(ExitCode::from(exit::OK)),
            Err(error) if Instant::now() >= until => {
                return Err(error.context(format!("the proxy is not ready after {} s", args.timeout)));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn it_ends_when_the_proxy_says_that_it_is_ready_and_not_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = std::thread::spawn(move || {
            for status in ["503 Service Unavailable", "503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").unwrap();
            }
        });
        run(Args {
            address: address.clone(),
            timeout: 60,
        })
        .unwrap();
        proxy.join().unwrap();
        let error = run(Args { address, timeout: 0 }).unwrap_err();
        assert!(error.to_string().contains("not ready after 0 s"), "{error}");
    }
}
