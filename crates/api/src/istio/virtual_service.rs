//! `networking.istio.io` VirtualService: how requests for a host are routed.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use super::StringMatch;
use crate::duration::Duration;
use crate::message::{choice, message};

message! {
    /// Routing rules for some hosts.
    pub struct VirtualService {
        /// Hosts as clients address them; short names belong to the resource's namespace.
        hosts: Vec<String>,
        /// `mesh` (the default), `name` or `namespace/name`.
        gateways: Vec<String>,
        /// Rules for HTTP, first match wins.
        http: Vec<HttpRoute>,
        /// Rules for TLS that is passed through, by SNI.
        tls: Vec<TlsRoute>,
        /// Rules for anything else.
        tcp: Vec<TcpRoute>,
        /// Namespaces that see it: `*`, `.`, `~` or names.
        export_to: Vec<String>,
    }

    /// One HTTP rule.
    pub struct HttpRoute {
        /// For logs and delegates.
        name: String,
        /// Any of these; empty takes everything.
        #[serde(rename = "match")]
        matches: Vec<HttpMatchRequest>,
        /// Where to, by weight.
        route: Vec<HttpRouteDestination>,
        /// Answers with a redirect.
        redirect: Option<HttpRedirect>,
        /// Answers with a fixed response.
        direct_response: Option<HttpDirectResponse>,
        /// Another VirtualService that carries on.
        delegate: Option<Delegate>,
        /// Changes path or authority on the way.
        rewrite: Option<HttpRewrite>,
        /// For the whole request with its retries; none when absent.
        timeout: Option<Duration>,
        /// Retry policy; Istio's default when absent.
        retries: Option<HttpRetry>,
        /// Injected delays and aborts.
        fault: Option<HttpFaultInjection>,
        /// Gets a copy of the traffic.
        mirror: Option<Destination>,
        /// Get copies of the traffic.
        mirrors: Vec<HttpMirrorPolicy>,
        /// Deprecated: whole percent of the traffic that `mirror` gets.
        mirror_percent: Option<u32>,
        /// Percent of the traffic that `mirror` gets; all when absent.
        mirror_percentage: Option<Percent>,
        /// Cross-origin rules.
        cors_policy: Option<CorsPolicy>,
        /// Header changes for every destination.
        headers: Option<Headers>,
    }

    /// Conditions on a request; all must hold.
    pub struct HttpMatchRequest {
        /// For logs.
        name: String,
        /// Path without query.
        uri: Option<StringMatch>,
        /// `http` or `https`.
        scheme: Option<StringMatch>,
        /// Method.
        method: Option<StringMatch>,
        /// `Host` or `:authority`.
        authority: Option<StringMatch>,
        /// Headers by lower-case name.
        headers: BTreeMap<String, StringMatch>,
        /// Port of the host that is addressed.
        port: Option<u16>,
        /// Labels of the caller's workload; only for sidecars.
        source_labels: Labels,
        /// Gateways for which it holds; those of the VirtualService when empty.
        gateways: Vec<String>,
        /// Query parameters by name.
        query_params: BTreeMap<String, StringMatch>,
        /// Whether case matters not for exact and prefix of `uri`.
        ignore_uri_case: bool,
        /// Headers that must not match.
        without_headers: BTreeMap<String, StringMatch>,
        /// Namespace of the caller's workload.
        source_namespace: String,
        /// Prefix of the route's statistics.
        stat_prefix: String,
    }

    /// One destination of an HTTP rule.
    pub struct HttpRouteDestination {
        /// Which service.
        destination: Destination,
        /// Share relative to the siblings' sum; a single destination takes all.
        weight: i32,
        /// Header changes for this destination.
        headers: Option<Headers>,
    }

    /// One destination of a TLS or TCP rule.
    pub struct RouteDestination {
        /// Which service.
        destination: Destination,
        /// Share relative to the siblings' sum.
        weight: i32,
    }

    /// A service, perhaps a subset of it, at a port.
    pub struct Destination {
        /// Host; short names belong to the resource's namespace.
        host: String,
        /// Subset defined in the host's DestinationRule.
        subset: String,
        /// Port; needed when the service has several.
        port: Option<PortSelector>,
    }

    /// A port by number.
    pub struct PortSelector {
        /// 1 to 65535.
        number: u16,
    }

    /// A TLS rule.
    pub struct TlsRoute {
        /// Any of these.
        #[serde(rename = "match")]
        matches: Vec<TlsMatchAttributes>,
        /// Where to, by weight.
        route: Vec<RouteDestination>,
    }

    /// A TCP rule.
    pub struct TcpRoute {
        /// Any of these; empty takes everything.
        #[serde(rename = "match")]
        matches: Vec<L4MatchAttributes>,
        /// Where to, by weight.
        route: Vec<RouteDestination>,
    }

    /// Conditions on a TLS connection; all must hold.
    pub struct TlsMatchAttributes {
        /// Names asked for; each within one of the VirtualService's hosts.
        sni_hosts: Vec<String>,
        /// Addresses or CIDRs of the destination.
        destination_subnets: Vec<String>,
        /// Port that is addressed.
        port: Option<u16>,
        /// Labels of the caller's workload.
        source_labels: Labels,
        /// Gateways for which it holds.
        gateways: Vec<String>,
        /// Namespace of the caller's workload.
        source_namespace: String,
    }

    /// Conditions on a connection; all must hold.
    pub struct L4MatchAttributes {
        /// Addresses or CIDRs of the destination.
        destination_subnets: Vec<String>,
        /// Port that is addressed.
        port: Option<u16>,
        /// Deprecated and without effect in Istio.
        source_subnet: String,
        /// Labels of the caller's workload.
        source_labels: Labels,
        /// Gateways for which it holds.
        gateways: Vec<String>,
        /// Namespace of the caller's workload.
        source_namespace: String,
    }

    /// A redirect as the answer.
    pub struct HttpRedirect {
        /// New path.
        uri: String,
        /// New host.
        authority: String,
        /// New port.
        port: Option<u16>,
        /// Where the port comes from when `port` is absent.
        derive_port: Option<RedirectPortSelection>,
        /// New scheme.
        scheme: String,
        /// 301, 302, 303, 307 or 308; 301 when absent.
        redirect_code: Option<u32>,
    }

    /// A fixed answer.
    pub struct HttpDirectResponse {
        /// 200 to 599.
        status: u32,
        /// The body.
        body: Option<HttpBody>,
    }

    /// Body of a fixed answer: one of the two.
    pub struct HttpBody {
        /// As text.
        string: Option<String>,
        /// As base64.
        bytes: Option<String>,
    }

    /// Names the VirtualService that carries on.
    pub struct Delegate {
        /// Its name.
        name: String,
        /// Its namespace; the root's own when empty.
        namespace: String,
    }

    /// Changes of the request on the way.
    pub struct HttpRewrite {
        /// Replaces the matched prefix or the whole path.
        uri: String,
        /// Replaces the host.
        authority: String,
        /// Replaces by regular expression.
        uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// A replacement by regular expression.
    pub struct RegexRewrite {
        /// What to find in the path (RE2).
        #[serde(rename = "match")]
        pattern: String,
        /// What to put there; `\1` is the first group.
        rewrite: String,
    }

    /// Retry policy.
    pub struct HttpRetry {
        /// Retries after the first try; 0 turns them off.
        attempts: i32,
        /// Per try; the route's timeout when absent.
        per_try_timeout: Option<Duration>,
        /// Envoy's conditions and status codes, separated by commas.
        retry_on: String,
        /// Whether other localities may be tried.
        retry_remote_localities: Option<bool>,
        /// Whether hosts already tried are avoided; yes when absent.
        retry_ignore_previous_hosts: Option<bool>,
        /// Least pause between tries; 25 ms when absent.
        backoff: Option<Duration>,
    }

    /// Injected faults.
    pub struct HttpFaultInjection {
        /// Delays.
        delay: Option<FaultDelay>,
        /// Aborts.
        abort: Option<FaultAbort>,
    }

    /// An injected delay.
    pub struct FaultDelay {
        /// Deprecated: whole percent.
        percent: Option<i32>,
        /// How long.
        fixed_delay: Option<Duration>,
        /// Not implemented by Istio either.
        exponential_delay: Option<Duration>,
        /// Share of the requests; none when absent.
        percentage: Option<Percent>,
    }

    /// An injected abort: one of the first three.
    pub struct FaultAbort {
        /// 200 to 599.
        http_status: Option<i32>,
        /// gRPC status by name or number.
        grpc_status: Option<String>,
        /// Not implemented by Istio either.
        http2_error: Option<String>,
        /// Share of the requests; all when absent.
        percentage: Option<Percent>,
    }

    /// A share of the traffic.
    pub struct Percent {
        /// 0 to 100.
        value: f64,
    }

    /// A destination for copies.
    pub struct HttpMirrorPolicy {
        /// Which service.
        destination: Destination,
        /// Share of the traffic; all when absent.
        percentage: Option<Percent>,
    }

    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Deprecated: exact origins.
        allow_origin: Vec<String>,
        /// Origins.
        allow_origins: Vec<StringMatch>,
        /// Methods.
        allow_methods: Vec<String>,
        /// Request headers.
        allow_headers: Vec<String>,
        /// Response headers that scripts may see.
        expose_headers: Vec<String>,
        /// How long a preflight's answer holds.
        max_age: Option<Duration>,
        /// Whether credentials may be sent.
        allow_credentials: Option<bool>,
        /// What happens to a preflight that matches no origin.
        unmatched_preflights: UnmatchedPreflights,
    }

    /// Header changes.
    pub struct Headers {
        /// On the request.
        request: Option<HeaderOperations>,
        /// On the response.
        response: Option<HeaderOperations>,
    }

    /// Changes of one set of headers, in the order remove, set, add.
    pub struct HeaderOperations {
        /// Overwrites.
        set: BTreeMap<String, String>,
        /// Appends.
        add: BTreeMap<String, String>,
        /// Removes.
        remove: Vec<String>,
    }
}

choice! {
    /// Where a redirect takes its port from.
    pub enum RedirectPortSelection {
        /// 80 or 443.
        FromProtocolDefault,
        /// The request's.
        FromRequestPort,
    }

    /// What happens to a preflight that matches no origin.
    pub enum UnmatchedPreflights {
        /// As FORWARD.
        Unspecified,
        /// It goes to the destination.
        Forward,
        /// It is answered without CORS headers.
        Ignore,
    }
}
