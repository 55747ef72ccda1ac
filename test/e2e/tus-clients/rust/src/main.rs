//! Uploads a file with tus_client: upload_tus_rust URL FILE.

use std::collections::HashMap;
use std::path::Path;
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;
use tus_client::http::{HttpHandler, HttpRequest, HttpResponse};
use tus_client::{Client, Error};

/// tus_client leaves HTTP to a handler.
struct Http(ureq::Agent);

impl HttpHandler for Http {
    fn handle_request(&self, request: HttpRequest) -> Result<HttpResponse, Error> {
        let method = request.method.to_string().to_uppercase();
        let mut outgoing = self.0.request(&method, &request.url);
        for (name, value) in &request.headers {
            outgoing = outgoing.set(name, value);
        }
        let response = match outgoing.send_bytes(request.body.unwrap_or_default()) {
            Ok(response) | Err(ureq::Error::Status(_, response)) => response,
            Err(failure) => return Err(Error::HttpHandlerError(failure.to_string())),
        };
        let names = response.headers_names();
        let header = |name: String| response.header(&name).map(|value| (name.clone(), value.to_string()));
        Ok(HttpResponse {
            headers: names.into_iter().filter_map(header).collect(),
            status_code: response.status().into(),
        })
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let path = Path::new(&args[2]);
    let client = Client::new(Http(ureq::Agent::new()));
    let metadata = HashMap::from([("filename", "ä b.png"), ("filetype", "image/png")]);
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let url = client.create_with_metadata(&args[1], path, metadata.collect()).expect("no upload was created");
    for _ in 0..100 {
        // It asks for the offset first.
        match client.upload_with_chunk_size(&url, path, 1024 * 1024) {
            Ok(()) => return println!("done"),
            Err(Error::UnexpectedStatusCode(status)) => {
                println!("{}", status);
                exit(1);
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
    exit(2);
}
