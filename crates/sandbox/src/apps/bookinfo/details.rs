//! `details`: the facts of a book.

use std::net::SocketAddr;

use http::StatusCode;
use serde_json::json;

use crate::apps::Identity;
use crate::apps::http::{self as web, App, Request, Response};

/// The sample.
#[derive(Debug)]
pub struct Details {
    me: Identity,
}

impl Details {
    /// Details that say they are `me`.
    pub fn new(me: Identity) -> Self {
        Self { me }
    }
}

impl App for Details {
    async fn answer(&self, request: Request, _: SocketAddr) -> Response {
        let path = request.uri().path();
        if path == "/health" {
            return web::json(StatusCode::OK, &json!({ "status": "Details is healthy" }));
        }
        let Some(id) = path
            .strip_prefix("/details/")
            .and_then(|id| id.parse::<u32>().ok())
        else {
            return web::json(
                StatusCode::BAD_REQUEST,
                &json!({ "error": "please provide numeric product id" }),
            );
        };
        let book = json!({
            "id": id,
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            "publisher": "PublisherA",
            "language": "English",
            "ISBN-10": "1234567890",
            "ISBN-13": "123-1234567890",
            "served_by": self.me.json(),
        });
        web::json(StatusCode::OK, &book)
    }
}
