import type { Contest } from './contest.js';
import { crowd, growth, slow } from './contests/crowds.js';
import { http2, http2Far } from './contests/http2.js';
import { ingest } from './contests/ingest.js';
import { passThroughGet, passThroughPost } from './contests/pass-through.js';
import { resume } from './contests/resume.js';
import { durability, redis, small } from './contests/small.js';
import { start } from './contests/start.js';
import { eager, wholePath } from './contests/whole-path.js';

/** All contests, in the order in which they are held and shown. */
export const CONTESTS: readonly Contest[] = [
  ingest,
  wholePath,
  eager,
  small,
  passThroughPost,
  passThroughGet,
  slow,
  resume,
  http2,
  http2Far,
  crowd,
  growth,
  start,
  durability,
  redis,
];
