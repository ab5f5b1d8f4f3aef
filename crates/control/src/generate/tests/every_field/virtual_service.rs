//! VirtualService.

use isthmus_api::Kind;
use isthmus_api::istio::VirtualService;
use serde_json::json;

use super::{CALLER, Example, INGRESS, demand, example, object};

#[test]
fn every_field_of_a_virtual_service_has_an_effect_or_a_finding() {
    let to = |host: &str| json!([{"destination": {"host": host}}]);
    let both = |spec: serde_json::Value| {
        let mut spec = spec;
        spec["hosts"] = json!(["reviews"]);
        example(spec)
    };
    let examples = [
        both(json!({
            "gateways": ["public", "mesh"],
            "http": [
                {
                    "name": "first",
                    "match": [{
                        "name": "one",
                        "uri": {"exact": "/a"}, "scheme": {"exact": "http"}, "method": {"exact": "GET"},
                        "authority": {"exact": "a.com"}, "headers": {"x-a": {"exact": "b"}}, "port": 80,
                        "queryParams": {"q": {"exact": "1"}}, "ignoreUriCase": true,
                        "withoutHeaders": {"x-b": {"exact": "c"}}, "statPrefix": "stat",
                        "gateways": ["public"]
                    }],
                    "route": to("echo.echo")
                },
                {
                    "match": [{
                        "uri": {"prefix": "/b"}, "scheme": {"prefix": "htt"}, "method": {"prefix": "G"},
                        "authority": {"prefix": "a"}, "headers": {"x-a": {"prefix": "b"}},
                        "queryParams": {"q": {"prefix": "1"}}, "withoutHeaders": {"x-b": {"prefix": "c"}}
                    }, {
                        "uri": {"prefix": "/labels"}, "sourceLabels": {"app": "other"}
                    }, {
                        "uri": {"prefix": "/port"}, "port": 99
                    }, {
                        "uri": {"prefix": "/gateways"}, "gateways": ["public"]
                    }],
                    "route": to("echo.echo")
                },
                {
                    "match": [{
                        "uri": {"regex": "/b.*"}, "scheme": {"regex": "htt.*"}, "method": {"regex": "G.*"},
                        "authority": {"regex": "a.*"}, "headers": {"x-a": {"regex": "b.*"}},
                        "queryParams": {"q": {"regex": "1.*"}}, "withoutHeaders": {"x-b": {"regex": "c.*"}}
                    }, {
                        "uri": {"prefix": "/namespace"}, "sourceNamespace": "other"
                    }],
                    "route": to("echo.echo")
                },
                {
                    "match": [{"uri": {"prefix": "/w"}}],
                    "route": [
                        {"destination": {"host": "echo.echo", "subset": "v1", "port": {"number": 80}}, "weight": 10,
                         "headers": {"request": {"set": {"a": "1"}, "add": {"b": "2"}, "remove": ["c"]},
                                     "response": {"set": {"a": "1"}, "add": {"b": "2"}, "remove": ["c"]}}},
                        {"destination": {"host": "reviews"}, "weight": 90}
                    ],
                    "headers": {"request": {"set": {"a": "1"}, "add": {"b": "2"}, "remove": ["c"]},
                                "response": {"set": {"a": "1"}, "add": {"b": "2"}, "remove": ["c"]}},
                    "rewrite": {"uri": "/x", "authority": "y"},
                    "timeout": "3s",
                    "retries": {"attempts": 3, "perTryTimeout": "1s", "retryOn": "5xx,503",
                                "retryRemoteLocalities": true, "retryIgnorePreviousHosts": false, "backoff": "1s"},
                    "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 5}},
                              "abort": {"httpStatus": 500, "percentage": {"value": 5}}},
                    "mirror": {"host": "echo.echo", "subset": "v1", "port": {"number": 80}},
                    "mirrorPercentage": {"value": 5},
                    "corsPolicy": {
                        "allowOrigins": [{"exact": "https://a"}, {"prefix": "https://b"}, {"regex": "https://c.*"}],
                        "allowMethods": ["GET"], "allowHeaders": ["x"], "exposeHeaders": ["y"], "maxAge": "5s",
                        "allowCredentials": true, "unmatchedPreflights": "IGNORE"
                    }
                },
                {
                    "match": [{"uri": {"prefix": "/old"}}],
                    "route": to("echo.echo"),
                    "rewrite": {"uriRegexRewrite": {"match": "/a", "rewrite": "/b"}},
                    "fault": {"delay": {"fixedDelay": "1s", "percent": 5}, "abort": {"grpcStatus": "UNAVAILABLE"}},
                    "mirrors": [{"destination": {"host": "echo.echo", "subset": "v1", "port": {"number": 80}},
                                 "percentage": {"value": 7}}],
                    "corsPolicy": {"allowOrigin": ["https://a"]}
                },
                {
                    "match": [{"uri": {"prefix": "/older"}}],
                    "route": to("echo.echo"),
                    "mirror": {"host": "echo.echo"},
                    "mirrorPercent": 5
                },
                {
                    "match": [{"uri": {"prefix": "/redirect"}}],
                    "redirect": {"uri": "/x", "authority": "a", "port": 81, "scheme": "http", "redirectCode": 302}
                },
                {
                    "match": [{"uri": {"prefix": "/redirect2"}}],
                    "redirect": {"uri": "/x", "derivePort": "FROM_PROTOCOL_DEFAULT"}
                },
                {
                    "match": [{"uri": {"prefix": "/direct"}}],
                    "directResponse": {"status": 204, "body": {"string": "a"}}
                },
                {
                    "match": [{"uri": {"prefix": "/direct2"}}],
                    "directResponse": {"status": 204, "body": {"bytes": "YQ=="}}
                }
            ]
        })),
        Example {
            namespace: "echo",
            ..example(json!({
                "hosts": ["reviews.default.svc.cluster.local"], "exportTo": ["."],
                "http": [{"timeout": "1s", "route": to("echo.echo")}]
            }))
        },
        // What Istio has in its schema and implements no more than we do is refused.
        both(json!({"http": [{"route": to("reviews"), "fault": {
            "delay": {"exponentialDelay": "1s", "percentage": {"value": 1}}, "abort": {"http2Error": "x"}}}]})),
        Example {
            beside: vec![object(
                Kind::VirtualService,
                "default",
                "rest",
                &json!({"http": [{"route": to("echo.echo")}]}),
            )],
            ..both(json!({"http": [
                {"match": [{"uri": {"prefix": "/d"}}], "delegate": {"name": "rest", "namespace": "default"}},
                {"route": to("reviews")}
            ]}))
        },
        Example {
            beside: vec![object(
                Kind::VirtualService,
                "echo",
                "rest",
                &json!({"http": [{"route": to("echo.echo")}]}),
            )],
            ..both(json!({"http": [
                {"match": [{"uri": {"prefix": "/d"}}], "delegate": {"name": "rest", "namespace": "echo"}},
                {"route": to("reviews")}
            ]}))
        },
        example(json!({
            "hosts": ["db"],
            "tcp": [
                {
                    "match": [{"destinationSubnets": ["10.0.0.0/8"], "port": 5432, "sourceSubnet": "10.0.0.0/8",
                               "gateways": ["mesh"]}],
                    "route": [
                        {"destination": {"host": "echo.echo", "subset": "v1", "port": {"number": 80}}, "weight": 10},
                        {"destination": {"host": "db"}, "weight": 90}
                    ]
                },
                {"match": [{"destinationSubnets": ["10.1.0.0/16"], "sourceLabels": {"app": "other"}}],
                 "route": to("echo.echo")},
                {"match": [{"destinationSubnets": ["10.2.0.0/16"], "sourceNamespace": "other"}],
                 "route": to("echo.echo")}
            ]
        })),
        example(json!({
            "hosts": ["db"],
            "tcp": [
                {"match": [{"port": 99}], "route": to("echo.echo")},
                {"match": [{"gateways": ["public"]}], "route": to("echo.echo")}
            ]
        })),
        Example {
            beside: vec![tls_entry()],
            ..example(json!({
                "hosts": ["*.secure.com"],
                "tls": [
                    {
                        "match": [{"sniHosts": ["a.secure.com"], "destinationSubnets": ["10.0.0.0/8"], "port": 443,
                                   "gateways": ["mesh"]}],
                        "route": [
                            {"destination": {"host": "echo.echo", "subset": "v1", "port": {"number": 80}}, "weight": 10},
                            {"destination": {"host": "a.secure.com"}, "weight": 90}
                        ]
                    },
                    {"match": [{"sniHosts": ["b.secure.com"], "sourceLabels": {"app": "other"}}],
                     "route": to("echo.echo")},
                    {"match": [{"sniHosts": ["c.secure.com"], "sourceNamespace": "other"}], "route": to("echo.echo")},
                    {"match": [{"sniHosts": ["d.secure.com"], "port": 99}], "route": to("echo.echo")},
                    {"match": [{"sniHosts": ["e.secure.com"], "gateways": ["public"]}], "route": to("echo.echo")}
                ]
            }))
        },
    ];
    demand::<VirtualService>(Kind::VirtualService, &[CALLER, INGRESS], &examples);
}

fn tls_entry() -> serde_json::Value {
    object(
        Kind::ServiceEntry,
        "default",
        "secure",
        &json!({
            "hosts": ["a.secure.com"], "addresses": ["10.9.9.9"], "resolution": "DNS",
            "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]
        }),
    )
}
