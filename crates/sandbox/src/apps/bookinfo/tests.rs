use http::{HeaderValue, StatusCode};

use super::*;
use crate::apps::tests::{Running, eu, get, get_json, raw, start};
use crate::apps::{Identity, http::App};

/// Where nothing listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

fn backends(details: &str, reviews: &str, ratings: &str) -> Backends {
    Backends {
        details: details.to_owned(),
        reviews: reviews.to_owned(),
        ratings: ratings.to_owned(),
    }
}

fn us() -> Identity {
    Identity {
        cluster: "us".to_owned(),
        ..eu("productpage-1", "v1")
    }
}

struct Bookinfo {
    page: Running,
    _parts: Vec<Running>,
}

fn bookinfo(version: &str, ratings_up: bool) -> Bookinfo {
    let details = start(Details::new(eu("details-1", "v1")));
    let ratings = start(Ratings::new(eu("ratings-1", "v1")));
    let at = if ratings_up {
        ratings.address.clone()
    } else {
        nobody()
    };
    let reviews = start(Reviews::new(eu("reviews-1", version), backends("", "", &at)));
    let page = start(Productpage::new(
        us(),
        backends(&details.address, &reviews.address, &at),
    ));
    Bookinfo {
        page,
        _parts: vec![details, ratings, reviews],
    }
}

#[tokio::test]
async fn the_page_shows_every_part_and_who_answered_it() {
    let app = bookinfo("v3", true);
    let (status, html) = get(&app.page, "/productpage", &[]).await;
    assert_eq!(status, StatusCode::OK);
    for expected in [
        "<h1>The Comedy of Errors</h1>",
        "William Shakespeare",
        "123-1234567890",
        "slapstick humour",
        "class=\"stars red\" role=\"img\" aria-label=\"5 of 5 stars\"",
        "aria-label=\"4 of 5 stars\"",
        "<b>productpage</b>",
        "<code>productpage-1</code>",
        "<b>ratings</b>",
        "<code>ratings-1</code>",
        ">us</span>",
        ">eu</span>",
    ] {
        assert!(html.contains(expected), "{expected} is missing in\n{html}");
    }
    assert!(
        !html.contains("http://") && !html.contains("https://"),
        "nothing is loaded from elsewhere"
    );
}

#[tokio::test]
async fn versions_differ_by_their_stars() {
    let v1 = bookinfo("v1", true);
    let html = get(&v1.page, "/productpage", &[]).await.1;
    assert!(!html.contains("class=\"stars") && !html.contains("<b>ratings</b>"));
    let v2 = bookinfo("v2", true);
    assert!(
        get(&v2.page, "/productpage", &[])
            .await
            .1
            .contains("class=\"stars black\"")
    );
    let reviews = get_json(&v2.page, "/api/v1/products/0/reviews").await;
    assert_eq!(
        reviews["reviews"][0]["rating"],
        serde_json::json!({ "stars": 5, "color": "black" })
    );
    assert_eq!(
        (&reviews["podname"], &reviews["clustername"]),
        (&"reviews-1".into(), &"eu".into())
    );
}

#[tokio::test]
async fn without_ratings_the_words_remain() {
    let app = bookinfo("v2", false);
    let (status, html) = get(&app.page, "/productpage", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(html.contains("Ratings service is currently unavailable") && html.contains("slapstick humour"));
    assert!(
        html.contains("class=\"d2 lost\"") && html.contains("cannot connect"),
        "{html}"
    );
}

#[tokio::test]
async fn a_part_that_is_gone_takes_nothing_with_it() {
    let page = start(Productpage::new(us(), backends(&nobody(), &nobody(), &nobody())));
    let (status, html) = get(&page, "/productpage", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        html.contains("Details are not available right now")
            && html.contains("Reviews are not available right now")
    );
    let (status, json) = get(&page, "/api/v1/products/0", &[]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        json.contains("details is currently unavailable: cannot connect"),
        "{json}"
    );
}

/// Answers 503 with markup, as a proxy in between might.
struct Refusing;

impl App for Refusing {
    async fn answer(&self, _: web::Request, _: std::net::SocketAddr) -> web::Response {
        web::text(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream <script>")
    }
}

#[tokio::test]
async fn what_others_say_cannot_become_markup() {
    let refusing = start(Refusing);
    let page = start(Productpage::new(
        us(),
        backends(&refusing.address, &refusing.address, ""),
    ));
    let html = get(&page, "/productpage", &[]).await.1;
    assert!(
        html.contains("no healthy upstream &lt;script&gt;") && !html.contains("<script>"),
        "{html}"
    );
    let login = raw(
        &page,
        "GET /login?u=%3Cb%3Ejason HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(login.contains("set-cookie: user=bjason;"), "{login}");
}

/// Says which headers it was asked with, as the words of a review.
struct Telling;

impl App for Telling {
    async fn answer(&self, request: web::Request, _: std::net::SocketAddr) -> web::Response {
        let told: Vec<String> = (request.headers().iter())
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let review = serde_json::json!({ "reviews": [{ "reviewer": "R", "text": told.join(" ") }] });
        web::json(StatusCode::OK, &review)
    }
}

#[tokio::test]
async fn traces_and_the_user_are_passed_on_and_nothing_else() {
    let telling = start(Telling);
    let page = start(Productpage::new(
        us(),
        backends(&telling.address, &telling.address, ""),
    ));
    let headers = [
        ("traceparent", "00-1-2-01"),
        ("x-b3-traceid", "7"),
        ("x-request-id", "r"),
        ("x-private", "secret"),
        ("cookie", "a=b; user=jason"),
    ];
    let told = get(&page, "/productpage", &headers).await.1;
    for expected in [
        "traceparent=00-1-2-01",
        "x-b3-traceid=7",
        "x-request-id=r",
        "end-user=jason",
        "<span>jason</span>",
    ] {
        assert!(told.contains(expected), "{expected} is missing in\n{told}");
    }
    assert!(!told.contains("secret"));
}

#[tokio::test]
async fn ratings_can_be_posted_and_are_checked() {
    let ratings = start(Ratings::new(eu("ratings-1", "v1")));
    let post = |body: &str| {
        format!(
            "POST /ratings/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert!(
        raw(&ratings, &post("{\"Reviewer1\": 6}"))
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert!(raw(&ratings, &post("[]")).await.starts_with("HTTP/1.1 400"));
    assert!(
        raw(&ratings, &post("{\"Reviewer1\": 2}"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(
        get_json(&ratings, "/ratings/0").await["ratings"],
        serde_json::json!({ "Reviewer1": 2 })
    );
    assert_eq!(get_json(&ratings, "/ratings/1").await["ratings"]["Reviewer1"], 5);
    assert_eq!(get(&ratings, "/ratings/x", &[]).await.0, StatusCode::BAD_REQUEST);
}

#[test]
fn the_environment_says_where_the_others_are() {
    let of = |pairs: &'static [(&str, &str)]| {
        Backends::of(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    };
    assert_eq!(of(&[]), backends("details:9080", "reviews:9080", "ratings:9080"));
    let set = of(&[
        ("SERVICES_DOMAIN", "bookinfo.svc"),
        ("REVIEWS_HOSTNAME", "r2"),
        ("RATINGS_SERVICE_PORT", "80"),
    ]);
    assert_eq!(
        set,
        backends(
            "details.bookinfo.svc:9080",
            "r2.bookinfo.svc:9080",
            "ratings.bookinfo.svc:80"
        )
    );
    let mut headers = HeaderMap::new();
    headers.append("b3", HeaderValue::from_static("x"));
    headers.append("b3", HeaderValue::from_static("y"));
    assert_eq!(passed_on(&headers).get_all("b3").iter().count(), 2);
}
