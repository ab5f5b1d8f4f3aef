//! The question of gRPC's health protocol: `grpc.health.v1.Health/Check`.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use prost::Message;
use tokio::net::TcpStream;

/// Bytes of an answer at most; a good one has seven.
const MOST_OF_AN_ANSWER: usize = 4096;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks whether a service is served; an error says what it is instead.
pub(super) async fn check(stream: TcpStream, service: &str) -> io::Result<()> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let ask = ask(sender, service);
    tokio::select! {
        answered = ask => answered,
        ended = connection => {
            ended.map_err(io::Error::other)?;
            Err(io::Error::other("the application closed the connection"))
        }
    }
}

async fn ask(sender: h2::client::SendRequest<Bytes>, service: &str) -> io::Result<()> {
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let request = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let (response, mut body) = sender.send_request(request, false).map_err(io::Error::other)?;
    body.send_data(framed(service), true).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    if response.status() != http::StatusCode::OK {
        return Err(io::Error::other(format!("status {}", response.status())));
    }
    let status = |headers: &http::HeaderMap| headers.get("grpc-status").map(|v| v.as_bytes() == b"0");
    let early = status(response.headers());
    let mut body = response.into_body();
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(io::Error::other)?;
        let _ = body.flow_control().release_capacity(data.len());
        if answer.len() + data.len() > MOST_OF_AN_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
        answer.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.map_err(io::Error::other)?;
    let late = trailers.as_ref().and_then(status);
    match early.or(late) {
        Some(true) => {}
        _ => {
            return Err(io::Error::other(
                "the application refuses grpc.health.v1.Health/Check",
            ));
        }
    }
    // One byte says whether it is compressed, four its length.
    let message = answer.get(5..).unwrap_or_default();
    match HealthCheckResponse::decode(message) {
        Ok(response) if response.status == SERVING => Ok(()),
        Ok(response) => Err(io::Error::other(format!("health status {}", response.status))),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn framed(service: &str) -> Bytes {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}
