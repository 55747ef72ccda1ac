# Varnish in front of rufh-proxy. Tested with Varnish 7.1. Varnish speaks no TLS: put hitch or HAProxy before it.
# rufh-proxy needs: trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: true }]
vcl 4.1;

import std;

backend rufh_proxy {
  .host = "127.0.0.1";
  .port = "8080";
  # rufh-proxy ends silent requests (limits.idle_timeout, delivery.wait). Varnish must not do so earlier.
  .first_byte_timeout = 600s;
  .between_bytes_timeout = 600s;
}

backend application {
  .host = "127.0.0.1";
  .port = "3000";
}

sub vcl_recv {
  # Only Varnish may set these headers.
  unset req.http.Forwarded;
  unset req.http.X-Forwarded-Prefix;
  set req.http.X-Forwarded-For = client.ip;
  set req.http.X-Forwarded-Host = req.http.Host;
  set req.http.X-Forwarded-Port = std.port(local.ip);
  # If a TLS proxy in front of Varnish sets this header, remove this line.
  set req.http.X-Forwarded-Proto = "http";

  # The paths with uploads, the path of the uploads themselves, and the same below a prefix that the application does not
  # know. They are piped, because Varnish buffers all other bodies.
  #
  # A split by path protects nothing: applications read paths in more ways than a front proxy. If rufh-proxy protects anything
  # (forward_auth, gate, max_size, bind_to), send every path to it, and let the application accept only its connections.
  if (req.url ~ "(?i)^/(files|\.uploads)/") {
    set req.backend_hint = rufh_proxy;
    return (pipe);
  }
  if (req.url ~ "^/app/") {
    set req.backend_hint = rufh_proxy;
    set req.http.X-Forwarded-Prefix = "/app";
    set req.url = regsub(req.url, "^/app", "");
    return (pipe);
  }
  # Varnish compares the path as written. Spellings that some applications read as another path (escaped letters, dot
  # segments, double slashes, backslashes) go to rufh-proxy too, which passes other requests through.
  if (req.url !~ "^/" || req.url ~ "(?i)^[^?]*(//|/\.|\\|%(2[5def]|3[0-9]|4[1-9a-f]|5[0-9acf]|6[1-9a-f]|7[0-9ae]))") {
    set req.backend_hint = rufh_proxy;
    return (pipe);
  }
  set req.backend_hint = application;
}

sub vcl_pipe {
  # One request per connection, because Varnish would not inspect the next one.
  set bereq.http.Connection = "close";
}
