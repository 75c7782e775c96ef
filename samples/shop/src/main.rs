//! The sample shop: four HTTP services in the shape everyone knows (productpage → details, reviews → ratings), a TCP
//! service behind details, and a driver that puts load on them. One binary; the first argument says which part it plays.
//!
//! It knows nothing of the mesh: it calls its neighbours by their service names over plain HTTP and TCP.

mod client;
mod hop;
mod load;
mod serve;
mod stock;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, Names};
use crate::load::LoadArgs;

#[derive(Parser)]
#[command(name = "shop", about = "The sample shop of Lateen: one binary, many parts")]
struct Cli {
    /// Where every name leads, when a proxy must be asked by address because nothing intercepts traffic
    #[arg(long, env = "RESOLVE_TO", global = true)]
    resolve_to: Option<IpAddr>,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// The front page: asks details and reviews
    Productpage {
        #[command(flatten)]
        server: ServerArgs,
        /// Where details is
        #[arg(long, default_value = "http://details:9080")]
        details: String,
        /// Where reviews is
        #[arg(long, default_value = "http://reviews:9080")]
        reviews: String,
    },
    /// Facts about a book; asks stock over TCP when told where it is
    Details {
        #[command(flatten)]
        server: ServerArgs,
        /// Host and port of stock
        #[arg(long)]
        stock: Option<String>,
    },
    /// What readers say; v2 and v3 ask ratings
    Reviews {
        #[command(flatten)]
        server: ServerArgs,
        /// Where ratings is
        #[arg(long, default_value = "http://ratings:9080")]
        ratings: String,
    },
    /// Stars from one to five
    Ratings {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// How many copies are left: a line in, a line out, over TCP
    Stock {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Ask a URL again and again and print one line of JSON per answer
    Load(LoadArgs),
}

/// What every service is told about itself.
#[derive(Args, Clone)]
struct ServerArgs {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:9080", overrides_with = "listen")]
    listen: SocketAddr,
    /// Version this replica answers with
    #[arg(long = "app-version", env = "APP_VERSION", default_value = "v1")]
    version: String,
    /// Name of this replica
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod: String,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let client = Client::new(Names::new(cli.resolve_to));
    let done = match cli.part {
        Part::Productpage {
            server,
            details,
            reviews,
        } => serve::productpage(server, client, details, reviews).await,
        Part::Details { server, stock } => serve::details(server, client, stock).await,
        Part::Reviews { server, ratings } => serve::reviews(server, client, ratings).await,
        Part::Ratings { server } => serve::ratings(server, client).await,
        Part::Stock { server } => stock::run(server).await,
        Part::Load(args) => load::run(args, client).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Resolves when the process is asked to end.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
