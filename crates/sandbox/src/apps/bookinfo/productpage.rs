//! `productpage`: the page, and the same content as JSON under `/api/v1/products`.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::page::{self, Page};
use super::{Backends, fetch, passed_on};
use crate::apps::Identity;
use crate::apps::http::{self as web, App, Request, Response};

/// The sample.
#[derive(Debug)]
pub struct Productpage {
    me: Identity,
    backends: Backends,
}

impl Productpage {
    /// A page that says it is `me`.
    pub fn new(me: Identity, backends: Backends) -> Self {
        Self { me, backends }
    }

    async fn page(&self, headers: &HeaderMap) -> Response {
        let user = user(headers);
        let onward = onward(headers, user.as_deref());
        let (details, reviews) = futures_util::future::join(
            fetch(&self.backends.details, "/details/0", &onward),
            fetch(&self.backends.reviews, "/reviews/0", &onward),
        )
        .await;
        let page = Page {
            me: &self.me,
            user: user.as_deref(),
            details: &details,
            reviews: &reviews,
        };
        // The page is there whatever its parts do: a part that fails says so in its own place.
        web::html(StatusCode::OK, page.to_html())
    }

    async fn part(&self, path: &str, headers: &HeaderMap) -> Response {
        let onward = onward(headers, user(headers).as_deref());
        let product = json!({ "id": 0, "title": page::TITLE, "descriptionHtml": page::SUMMARY });
        let rest = path
            .strip_prefix("/api/v1/products")
            .unwrap_or_default()
            .trim_matches('/');
        let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
        if id.is_empty() {
            return web::json(StatusCode::OK, &json!([product]));
        }
        if id != "0" {
            return web::json(
                StatusCode::NOT_FOUND,
                &json!({ "error": "there is one product, its id is 0" }),
            );
        }
        let (service, authority) = match part {
            "" => ("details", &self.backends.details),
            "reviews" => ("reviews", &self.backends.reviews),
            "ratings" => ("ratings", &self.backends.ratings),
            _ => return web::json(StatusCode::NOT_FOUND, &json!({ "error": "no such part" })),
        };
        match fetch(authority, &format!("/{service}/0"), &onward).await {
            Ok(answer) => web::json(StatusCode::OK, &answer),
            Err(why) => {
                let error = format!("{service} is currently unavailable: {why}");
                web::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error }))
            }
        }
    }
}

impl App for Productpage {
    async fn answer(&self, request: Request, _: SocketAddr) -> Response {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/" | "/index.html" => see_other("/productpage"),
            "/productpage" => self.page(request.headers()).await,
            "/login" if request.method() == Method::POST => {
                let body = match web::body(request.into_body()).await {
                    Ok(body) => body,
                    Err(refusal) => return refusal,
                };
                let form = web::pairs(&String::from_utf8_lossy(&body));
                let name = form
                    .into_iter()
                    .find(|(k, _)| k == "username")
                    .map(|(_, v)| v)
                    .unwrap_or_default();
                signed(see_other("/productpage"), &plain(&name))
            }
            "/login" => signed(
                see_other("/productpage"),
                &plain(&web::parameter(request.uri(), "u").unwrap_or_default()),
            ),
            "/logout" => signed(see_other("/productpage"), ""),
            "/health" => web::text(StatusCode::OK, "Product page is healthy\n"),
            api if api.starts_with("/api/v1/products") => self.part(api, request.headers()).await,
            _ => web::text(StatusCode::NOT_FOUND, "the page is at /productpage\n"),
        }
    }
}

/// Trace headers and, for a user who signed in, `end-user`, which routes may match.
fn onward(headers: &HeaderMap, user: Option<&str>) -> HeaderMap {
    let mut onward = passed_on(headers);
    if let Some(user) = user.and_then(|u| HeaderValue::from_str(u).ok()) {
        onward.insert("end-user", user);
    }
    onward
}

/// The name from the cookie `user`. This is a sample: anybody may call themselves anything.
fn user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|c| c.to_str().ok());
    let mut pairs = cookies
        .flat_map(|c| c.split(';'))
        .filter_map(|c| c.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == "user")
        .map(|(_, value)| plain(value))
        .filter(|u| !u.is_empty())
}

fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.@".contains(*c))
        .take(64)
        .collect()
}

fn signed(mut response: Response, user: &str) -> Response {
    let age = if user.is_empty() { "; Max-Age=0" } else { "" };
    if let Ok(cookie) = HeaderValue::from_str(&format!("user={user}; Path=/; HttpOnly; SameSite=Lax{age}")) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn see_other(to: &'static str) -> Response {
    let mut response = web::text(StatusCode::SEE_OTHER, "");
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_static(to));
    response
}

/// One part of the page: what a service answered, or why it did not.
pub(super) type Part = Result<Value, String>;
