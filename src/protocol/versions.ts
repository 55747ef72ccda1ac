import type { ProblemType } from './problem.js';

/**
 * One deployed version of RUFH. Everything that differs on the wire between drafts is a value here, so that no other
 * file compares versions.
 */
export interface Dialect {
  /** The name stored with an upload: the interop version, or `final` for the version without a number. */
  readonly name: string;
  /** Sent in `Upload-Draft-Interop-Version`. RUFH, all drafts: clients ignore a 104 without their own number. */
  readonly version?: string;
  /** Whether requests get a 104: always, only if the setting `uploads.rfc104` enables it, or never. */
  readonly interim: 'always' | 'when-enabled' | 'never';
  /** Renamed and inverted in draft-02: before, `Upload-Incomplete: ?0` meant complete. */
  readonly completeness: { readonly field: 'Upload-Incomplete' | 'Upload-Complete'; readonly whenComplete: boolean };
  /** Whether a 104 reports the offset during a creation, and whether it must, or must not, repeat `Location`. */
  readonly creationProgress: 'none' | 'without-location' | 'with-location';
  /** Whether a 104 reports the offset during an append. */
  readonly appendProgress: boolean;
  /** The name of the remaining seconds in `Upload-Limit`; undefined if the dialect does not have the field. */
  readonly lifetimeLimit?: 'expires' | 'max-age';
  /** Size limits of appends also apply to the body of a creation. */
  readonly appendLimitsOnCreation: boolean;
  /** The required media type of an append; undefined: any. */
  readonly appendType?: typeof PARTIAL_UPLOAD;
  readonly wrongAppendTypeStatus: 400 | 415;
  readonly appendWithoutCompleteness: 'completes' | 'malformed';
  /** The status after an append that does not complete the upload. */
  readonly appendedStatus: 201 | 204;
  /** Whether `Upload-Length` is sent with the offset, also where both together look like success (`looksDone`). */
  readonly sendsLength: 'never' | 'unless-it-looks-done' | 'always';
  /** Whether the answer to a creation gets the upload's URL if the origin sent no `Location`. */
  readonly answerLocation: 'upload-if-none' | 'origin-only';
  /** A cancellation with an offset or completeness is refused. */
  readonly strictCancel: boolean;
  /**
   * An incomplete, empty creation of length 0 completes the upload, because the client never sends the completing
   * append.
   */
  readonly emptyCreationCompletes: boolean;
  /** `X-HTTP-Method-Override` is honoured on POST, for browsers. */
  readonly methodOverride: boolean;
  readonly problemTypes: readonly ProblemType[];
  /** The refusal of an append that does not fit a complete upload. */
  readonly alreadyComplete: { readonly status: 400 | 409; readonly type: ProblemType };
  readonly goneStatus: 404 | 410;
  /** The status if the origin did not answer. */
  readonly undeliveredStatus: 502 | 503;
}

/** RUFH §6: the media type of an append's content. */
export const PARTIAL_UPLOAD = 'application/partial-upload';

/** draft-01: iOS 17. */
const interop3: Dialect = {
  name: '3',
  version: '3',
  interim: 'always',
  completeness: { field: 'Upload-Incomplete', whenComplete: false },
  creationProgress: 'none',
  appendProgress: false,
  appendLimitsOnCreation: false,
  wrongAppendTypeStatus: 415,
  appendWithoutCompleteness: 'completes',
  appendedStatus: 201,
  sendsLength: 'never',
  answerLocation: 'upload-if-none',
  strictCancel: true,
  emptyCreationCompletes: false,
  methodOverride: false,
  problemTypes: [],
  alreadyComplete: { status: 409, type: 'about:blank' },
  // Drafts up to 05 define no other status for an inactive upload.
  goneStatus: 404,
  // No client up to interop 8 retries after a 503, so it gets the status of an ordinary gateway.
  undeliveredStatus: 502,
};

/** draft-02. No known client apart from tests. */
const interop4: Dialect = {
  ...interop3,
  name: '4',
  version: '4',
  completeness: { field: 'Upload-Complete', whenComplete: true },
};

/** draft-03: iOS 18.0, tus-js-client as `ietf-draft-03`. */
const interop5: Dialect = {
  ...interop4,
  name: '5',
  version: '5',
  creationProgress: 'without-location',
  appendProgress: true,
  emptyCreationCompletes: true,
  methodOverride: true,
};

/** draft-04 and -05: iOS 18.1 and later, tus-js-client as `ietf-draft-05`. */
const interop6: Dialect = {
  ...interop5,
  name: '6',
  version: '6',
  lifetimeLimit: 'expires',
  appendType: PARTIAL_UPLOAD,
  wrongAppendTypeStatus: 400,
  // tus-js-client takes "offset = length" for success, whatever `Upload-Complete` says.
  sendsLength: 'unless-it-looks-done',
  problemTypes: ['mismatching-upload-offset', 'completed-upload'],
  alreadyComplete: { status: 400, type: 'completed-upload' },
};

/** draft-06 to -08. */
const interop7: Dialect = {
  ...interop6,
  name: '7',
  version: '7',
  lifetimeLimit: 'max-age',
  wrongAppendTypeStatus: 415,
  sendsLength: 'always',
  appendWithoutCompleteness: 'malformed',
  appendedStatus: 204,
  answerLocation: 'origin-only',
  strictCancel: false,
  emptyCreationCompletes: false,
  methodOverride: false,
  problemTypes: ['mismatching-upload-offset', 'completed-upload', 'inconsistent-upload-length'],
  goneStatus: 410,
};

/** draft-09 to -11: pyrufh, Amphora. */
const interop8: Dialect = {
  ...interop7,
  name: '8',
  version: '8',
  alreadyComplete: { status: 400, type: 'inconsistent-upload-length' },
};

/** draft-12: the completeness field of a response now tells whether the origin or the upload protocol responds. */
const interop9: Dialect = {
  ...interop8,
  name: '9',
  version: '9',
  creationProgress: 'with-location',
  appendLimitsOnCreation: true,
  problemTypes: ['mismatching-upload-offset', 'inconsistent-upload-length'],
  undeliveredStatus: 503,
};

/** draft-13 and later. */
const interop10: Dialect = { ...interop9, name: '10', version: '10', strictCancel: true };

/** The future RFC: the newest draft without the version header. */
export const final: Dialect = { ...interop10, name: 'final', version: undefined, interim: 'when-enabled' };

/** Every supported version, by the name stored with an upload. */
export const dialects: ReadonlyMap<string, Dialect> = new Map(
  [interop3, interop4, interop5, interop6, interop7, interop8, interop9, interop10, final].map((dialect) => [
    dialect.name,
    dialect,
  ]),
);

/** For requests without a version: RUFH, all drafts, allows a 104 only if the request names the version. */
export function withoutInterim(dialect: Dialect): Dialect {
  return { ...dialect, interim: 'never' };
}

/** For requests with an unknown version: another number in the response could make the client give up. */
export function withoutVersion(dialect: Dialect): Dialect {
  return { ...withoutInterim(dialect), version: undefined };
}
