//! A WebSocket that sends every message back (RFC 6455): just what `/websocket` of httpbin needs.

use std::io;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use isthmus_runtime::drain;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::http::{Request, Response, text};

/// Bytes of one frame that are taken.
const MOST_FRAME: u64 = 1 << 20;
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Answers the handshake and echoes on the upgraded connection.
pub(super) fn accept(mut request: Request) -> Response {
    let Some(key) = key(request.headers()) else {
        return text(
            StatusCode::UPGRADE_REQUIRED,
            "this path speaks WebSocket: send Upgrade: websocket\n",
        );
    };
    let Some(mut drain) = request.extensions().get::<drain::Watcher>().cloned() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "this server takes no WebSockets\n",
        );
    };
    drain.clone().spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        let mut stream = TokioIo::new(upgraded);
        let ended = tokio::select! {
            ended = echo(&mut stream) => ended,
            // 1001: the server goes away.
            _ = drain.draining() => send(&mut stream, 0x88, &1001_u16.to_be_bytes()).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "WebSocket ended");
        }
    });
    let mut response = Response::new(
        http_body_util::Empty::<Bytes>::new()
            .map_err(|n| match n {})
            .boxed_unsync(),
    );
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response
        .headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(proof) = HeaderValue::from_str(&proof(&key)) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, proof);
    }
    response
}

fn key(headers: &HeaderMap) -> Option<Vec<u8>> {
    let upgrade = headers.get(header::UPGRADE)?;
    upgrade
        .as_bytes()
        .eq_ignore_ascii_case(b"websocket")
        .then_some(())?;
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|k| k.as_bytes().to_vec())
}

/// RFC 6455 section 4.2.2: what proves that the handshake was understood.
pub(super) fn proof(key: &[u8]) -> String {
    STANDARD.encode(digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        &[key, MAGIC].concat(),
    ))
}

/// Sends data frames back as they are, answers pings, and returns after a close.
pub(super) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let [first, second] = match stream.read_u16().await {
            Ok(head) => head.to_be_bytes(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            n => u64::from(n),
        };
        if second & 0x80 == 0 {
            // A client must mask (section 5.1).
            return send(&mut stream, 0x88, &1002_u16.to_be_bytes()).await;
        }
        if length > MOST_FRAME {
            return send(&mut stream, 0x88, &1009_u16.to_be_bytes()).await;
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        payload
            .iter_mut()
            .zip(mask.iter().cycle())
            .for_each(|(byte, mask)| *byte ^= mask);
        match first & 0x0f {
            0..=2 => send(&mut stream, first, &payload).await?,
            8 => return send(&mut stream, 0x88, payload.get(..2).unwrap_or_default()).await,
            9 => send(&mut stream, 0x8a, &payload).await?,
            10 => {}
            _ => return send(&mut stream, 0x88, &1002_u16.to_be_bytes()).await,
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(n as u8),
        n @ 126..=65535 => {
            frame.push(126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            frame.push(127);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}
