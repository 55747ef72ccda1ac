import type { Dialect } from './dialects.js';
import { parseCreation, parseUploadRequest } from './ietf-parse.js';
import { renderInterim, renderOutcome } from './ietf-render.js';
import type { Protocol } from './protocol.js';

export interface IetfSettings {
  /** Send 104 in the form without a version header as well: the drafts forbid it, the RFC will not. */
  readonly finalInterim?: boolean;
}

/** RUFH in one of its deployed forms. */
export function ietf(dialect: Dialect, { finalInterim = false }: IetfSettings = {}): Protocol {
  const sendsInterim = dialect.interim === 'always' || (dialect.interim === 'when-enabled' && finalInterim);
  return {
    name: dialect.name,
    parseCreation: (head) => parseCreation(dialect, head),
    parseUploadRequest: (head, id) => parseUploadRequest(dialect, head, id),
    interim: (news, context) => (sendsInterim ? renderInterim(dialect, news, context) : undefined),
    render: (outcome, context) => renderOutcome(dialect, outcome, context),
  };
}
