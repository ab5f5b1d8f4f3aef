//! EndpointSlice: addresses of the stated family, ports in range.

use super::field::optional_port;
use super::kubernetes::ip;
use super::{Context, Validate};
use crate::kubernetes::EndpointSlice;

impl Validate for EndpointSlice {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("endpoints");
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            for (j, address) in endpoint.addresses.iter().enumerate() {
                let at = at.index(i).field("addresses").index(j);
                if self.address_type == "FQDN" {
                    super::field::host(address, false, &at);
                } else {
                    ip(address, &at);
                }
            }
        }
        for (i, port) in self.ports.iter().enumerate() {
            optional_port(port.port, &context.at("ports").index(i).field("port"));
        }
    }
}
