import type { StoryEvent } from '../model/story.js';
import { PHASES } from '../model/upload.js';

const STRING = { type: 'string' };
const COUNT = { type: 'integer', minimum: 0 };
const STATUS = { type: 'integer', minimum: 100, maximum: 599 };
const TIME = { type: 'string', format: 'date-time' };

type Properties = Readonly<Record<string, unknown>>;

/** The required and the optional properties of each kind of entry, besides its kind and time. */
const EVENTS: Readonly<Record<StoryEvent['kind'], readonly [required: Properties, optional?: Properties]>> = {
  created: [{ route: STRING, dialect: STRING, method: STRING, target: STRING, client: STRING }, { length: COUNT }],
  request: [
    { action: STRING, method: STRING, client: STRING, http: STRING, ms: COUNT },
    { dialect: STRING, from: COUNT, to: COUNT, status: STATUS, interrupted: STRING },
  ],
  takeover: [{ lease: COUNT, from: COUNT, purpose: { enum: ['to-write', 'to-read', 'to-end'] }, waitedMs: COUNT }],
  'lease-ended': [{ lease: COUNT, reason: { enum: ['draining', 'lost'] } }],
  attempt: [
    { number: COUNT, origin: STRING, ms: COUNT, reached: { enum: ['never-sent', 'sent-in-part', 'sent', 'answered'] } },
    { status: STATUS, problem: STRING },
  ],
  retry: [{ afterMs: COUNT }],
  undelivered: [{ reason: STRING, problem: STRING }, { status: STATUS }],
  answer: [{ by: { enum: ['origin', 'gate'] }, status: STATUS, bytes: COUNT }],
  end: [{ phase: { enum: [...PHASES, 'expired'] } }, { problem: STRING }],
  removed: [{}],
  admin: [
    { action: { enum: ['cancel', 'redeliver'] }, status: STATUS },
    { operator: STRING, pastGate: { const: true } },
  ],
  'left-out': [{ count: COUNT }],
};

/** The JSON Schemas of the entries of a story. */
export const STORY_EVENTS = Object.entries(EVENTS).map(([kind, [required, optional]]) => ({
  type: 'object',
  required: ['kind', 'at', ...Object.keys(required)],
  properties: { kind: { const: kind }, at: TIME, ...required, ...optional },
}));
