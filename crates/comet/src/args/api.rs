//! The flags of every command that calls a running server.

use std::path::PathBuf;

/// Where the calls of a server are, and what opens them.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Api {
    /// The server's push service: HOST:PORT, tls:HOST:PORT or unix:/PATH
    #[arg(long, global = true, default_value = "127.0.0.1:8083", value_name = "ADDR")]
    pub grpc: String,
    /// The token that the server asks for (push.tokens), sent as "authorization: Bearer TOKEN"; @FILE reads it
    /// from a file
    #[arg(long, global = true, value_name = "TOKEN|@FILE")]
    pub token: Option<String>,
    /// With tls:HOST:PORT: PEM certificates to trust, instead of the system's authorities
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// With tls:HOST:PORT: the PEM certificate to show, where the server asks for one
    #[arg(long, global = true, value_name = "FILE", requires = "key_file")]
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(
        long = "key",
        id = "key_file",
        global = true,
        value_name = "FILE",
        requires = "certificate"
    )]
    pub private_key: Option<PathBuf>,
}
