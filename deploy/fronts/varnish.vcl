# Varnish in front of rufh-proxy. Tried with Varnish 7.1. Varnish speaks no TLS: something before it does (hitch, HAProxy).
# rufh-proxy needs: trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: true }]
vcl 4.1;

import std;

backend rufh_proxy {
  .host = "127.0.0.1";
  .port = "8080";
  # rufh-proxy ends what is silent for too long (limits.idle_timeout, delivery.wait). Varnish must not do so before it.
  .first_byte_timeout = 600s;
  .between_bytes_timeout = 600s;
}

backend application {
  .host = "127.0.0.1";
  .port = "3000";
}

sub vcl_recv {
  # Only what Varnish itself saw may be believed.
  unset req.http.Forwarded;
  unset req.http.X-Forwarded-Prefix;
  set req.http.X-Forwarded-For = client.ip;
  set req.http.X-Forwarded-Host = req.http.Host;
  set req.http.X-Forwarded-Port = std.port(local.ip);
  # Where a TLS proxy is before Varnish it sets this, and the line goes.
  set req.http.X-Forwarded-Proto = "http";

  # The paths with uploads, the path of the uploads themselves, and the same below a prefix that the application does not
  # know. Piped, because Varnish buffers the bodies of everything else.
  #
  # A split by path protects nothing: applications read paths in more ways than a front. Where rufh-proxy guards anything
  # (forward_auth, gate, max_size, bind_to), send every path to it, and let the application listen for it alone.
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
  # Varnish compares the path as it is written. Spellings that some application reads as another path (escaped letters, dot
  # segments, double slashes, backslashes) go to rufh-proxy too, which passes on what is not for it.
  if (req.url !~ "^/" || req.url ~ "(?i)^[^?]*(//|/\.|\\|%(2[5def]|3[0-9]|4[1-9a-f]|5[0-9acf]|6[1-9a-f]|7[0-9ae]))") {
    set req.backend_hint = rufh_proxy;
    return (pipe);
  }
  set req.backend_hint = application;
}

sub vcl_pipe {
  # One request a connection: the next one on it would not be looked at any more.
  set bereq.http.Connection = "close";
}
