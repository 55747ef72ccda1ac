import * as z from 'zod';
import { duration, integerOrNull, sizeOrNull } from './scalars.js';

/** What clients may take of this process, and how slow they may be: settings of the top `limits` alone. */
export const clientLimits = {
  head_timeout: duration({ leastMs: 1 })
    .prefault('30s')
    .describe(
      'How long a request’s header section may take, from its first byte to its last; 408 and the end of the connection follow. ' +
        'A TLS handshake, and the first request of a new HTTP/2 connection, have as long.',
    ),
  min_rate: z
    .strictObject({
      request: sizeOrNull()
        .prefault(100)
        .describe(
          'Bytes a second that a request body has to bring. Only time counts in which the client could send: not while it waits ' +
            'for `100 (Continue)`, nor while the origin or the disk is behind. `null`: no limit.',
        ),
      response: sizeOrNull()
        .prefault(100)
        .describe(
          'Bytes a second that a client has to take while bytes wait for it; an answer that has nothing to send costs it nothing. ' +
            'Connections that changed to another protocol are free of it. `null`: no limit.',
        ),
      window: duration({ leastMs: 100 })
        .prefault('60s')
        .describe(
          'Over how long that is measured; for request bodies at least `idle_timeout`, for responses five times as long, because ' +
            'buffers on the way hide how much a slow client reads.',
        ),
    })
    .prefault({})
    .describe(
      'How slow a client may be. A request body that is slower is ended like an idle one: an upload keeps its bytes and resumes, ' +
        'another request gets 408. A client that takes its answer more slowly loses its connection, or its HTTP/2 stream.',
    ),
  connections: z
    .strictObject({
      total: integerOrNull({ least: 1, most: 10_000_000 })
        .prefault(null)
        .describe(
          'Connections of clients in all, over all `workers`. `null`: a third of the file descriptors that each process may open ' +
            '(`ulimit -n`) less 64, at most 16384 a process: what is left is for origins, the disk and the admin listener.',
        ),
      per_address: integerOrNull({ least: 1, most: 10_000_000 })
        .prefault(null)
        .describe(
          'Connections of one client address, of one /64 with IPv6. `trusted_proxies` and Unix sockets are free of it, as they stand ' +
            'for many clients. `null`: half of `total`.',
        ),
    })
    .prefault({})
    .describe(
      'How many connections clients may have. One more is reset at once, counted in `rufh_connections_refused_total` and told ' +
        'in the log. From nine tenths of `total` on, connections that wait idle for a next request are closed first.',
    ),
};
