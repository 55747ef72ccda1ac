/** What tables cannot say, below them in docs/configuration.md. */
export const GUIDE = `
### How a request finds its route

The routes are tried from top to bottom; the first whose path pattern and methods match wins. Patterns see the path
without the query, in its normal form: dot segments resolved, \`%61\` as \`a\`, other escapes in capitals. \`*\` stays
within one segment, \`**\` goes across segments,
\`{a,b}\` is either, and \`/api/files/**\` includes \`/api/files\` itself. A request that no route matches passes through
to the top \`origin\`. GET, HEAD, DELETE, OPTIONS and TRACE never begin an upload: they pass through, if \`forward_auth\`
lets them, and what body they have is taken to a \`gate\`. CONNECT is answered with 501.

Each setting that a route does not name is the top one’s, also within \`eager\`, \`breaker\` and \`retry\`. Lists, and the
groups \`framing\`, \`gate\` and \`forward_auth\`, are replaced as a whole.

\`\`\`yaml
origin: http://127.0.0.1:3000
limits: { max_size: 1GiB }
routes:
  - match: { path: /api/files/raw/** }
    resumable: false # passes through, whatever upload headers it has
  - match: { path: /api/files/** } # every method goes to port 4000, POST, PUT and PATCH are resumable
    origin: http://127.0.0.1:4000
    limits: { max_size: 10GiB } # the other limits are those above
    delivery: { guarantee: at_least_once, framing: { field: upload } }
\`\`\`

### How many nodes become one proxy

A *node* is a directory with the bytes of uploads and the processes that use it, usually a machine. Nodes with the same
Redis and \`prefix\` are one proxy, and a load balancer may send each request to any of them.
[\`config/cluster.example.yaml\`](../config/cluster.example.yaml) is a whole file for it.

\`\`\`yaml
origin: http://127.0.0.1:3000
store: { type: redis, url: redis://10.0.0.3:6379/0 }
spool: { shared: true } # every node mounts \`data\`; nothing else is needed
workers: auto
\`\`\`

\`\`\`yaml
origin: http://127.0.0.1:3000
store: { type: redis, url: redis://10.0.0.3:6379/0 }
spool: { shared: false } # each node has a disk of its own, and is asked for what is on it
cluster: { listen: 0.0.0.0:8081, advertise: 'http://\${NODE_ADDRESS}:8081', secret: '\${CLUSTER_SECRET}' }
\`\`\`

Without \`cluster\` and without a shared spool there can be only one node: no other can reach the bytes on it.

### What the URL of Redis leads to

\`\`\`yaml
origin: http://127.0.0.1:3000
store: # one server, or whatever stands in front of several and looks like one
  type: redis
  url: rediss://redis.example.com:6379/0
  username: rufh
  password: \${REDIS_PASSWORD}
\`\`\`

\`\`\`yaml
origin: http://127.0.0.1:3000
store: # Sentinels, usually on port 26379; user and password of the URL are those of Redis, not of the Sentinels
  type: redis
  url: [redis://10.0.0.1, redis://10.0.0.2, redis://10.0.0.3]
  sentinel: { master: mymaster }
  replicas: 1
\`\`\`

\`\`\`yaml
origin: http://127.0.0.1:3000
store: # some nodes of a Redis Cluster
  type: redis
  url: [redis://10.0.0.1:6379, redis://10.0.0.2:6379]
  cluster: true
\`\`\`

Where a port is left out it is 6379, or 26379 for Sentinels. Letters of a password that mean something in a URL are
percent-encoded there (\`@\` as \`%40\`, \`/\` as \`%2F\`); in \`password\` and \`password_file\` everything stands for itself.
No message and no output of \`check\` shows a password.
`;
