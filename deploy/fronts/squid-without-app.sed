# Takes the prefix /app off a URL, for squid.conf beside this file. Squid sends a line for each request below /app/.
s,^([a-z]+://[^/]+)/app(/[^[:space:]]*).*,OK rewrite-url=\1\2 without=app,
t
s,.*,ERR,
