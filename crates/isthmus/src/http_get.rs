//! A bounded, blocking HTTP/1.1 request without a body for the admin ports of our own processes.
//!
//! Plaintext, one request a connection, answers up to 256 MiB. Not a general client.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

const LIMIT: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks `authority` (`HOST:PORT`) for `path` and gives back the body; any status but 200 is an error.
pub fn request(method: &str, authority: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let address = authority
        .to_socket_addrs()
        .with_context(|| format!("{authority:?} is not an address of the form HOST:PORT"))?
        .next()
        .with_context(|| format!("{authority} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("nothing answers at {authority}: is the proxy or control plane running?"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\ncontent-length: 0\r\naccept: */*\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let mut answer = Vec::new();
    let read = stream.take(LIMIT).read_to_end(&mut answer);
    read.map_err(|e| match e.kind() {
        // What a read time-out is to the system.
        ErrorKind::WouldBlock => anyhow!("no answer within {} s: does the process hang?", TIMEOUT.as_secs()),
        _ => e.into(),
    })
    .with_context(|| format!("reading {path} from {authority}"))?;
    parse(&answer).with_context(|| format!("answer of {authority} to {method} {path}"))
}

fn parse(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("not HTTP: no end of the head")?;
    let head = std::str::from_utf8(&answer[..end]).context("not HTTP: the head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.split(' ').nth(1))
        .context("not HTTP: no status")?;
    let chunked = lines.any(|l| {
        l.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked")
        })
    });
    let body = &answer[end + 4..];
    let body = if chunked { dechunk(body)? } else { body.to_vec() };
    if status != "200" {
        bail!("status {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

fn dechunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|w| w == b"\r\n")
            .context("the body is cut off")?;
        let size = std::str::from_utf8(&rest[..line])?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .context("a chunk's size is not a number")?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        let chunk = rest.get(..size).context("the body is cut off")?;
        body.extend_from_slice(chunk);
        rest = rest.get(size + 2..).context("the body is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plain_and_chunked_bodies() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\nabc").unwrap(), b"abc");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), b"abcde");
    }

    #[test]
    fn refuses_what_is_cut_off_or_failed() {
        assert!(
            parse(b"HTTP/1.1 404 Not Found\r\n\r\nno such path")
                .unwrap_err()
                .to_string()
                .contains("404")
        );
        for bad in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(parse(bad).is_err());
        }
    }
}
