/**
 * Asks Headwater's HTTP API. Paths, queries and answers are typed by `schema.ts`, which is generated
 * from the OpenAPI document.
 */
import ky, { HTTPError } from "ky";
import createClient, { type Client, type Middleware } from "openapi-fetch";

import type { components, paths } from "./schema.js";

export type { components, paths } from "./schema.js";

type Schemas = components["schemas"];
export type Event = Schemas["Event"];
export type Item = Schemas["Item"];
export type Problem = Schemas["Problem"];
export type RecommendationAnswer = Schemas["RecommendationAnswer"];
export type RecommendationQuery = Schemas["RecommendationQuery"];
export type HeadwaterClient = Client<paths>;

/** The API refuses a request: `problem` has status, field, value and remedy. */
export class ProblemError extends Error {
  override readonly name = "ProblemError";

  constructor(readonly problem: Problem) {
    super(`${problem.status} ${problem.title}: ${problem.detail ?? ""}`);
  }
}

export interface HeadwaterOptions {
  /** Where the API is, such as http://127.0.0.1:8080. */
  url: string;
  /** A key of `headwater keys add`; none on the API's own machine, where it asks for none. */
  key?: string;
  /** How long one try may take, in milliseconds. */
  timeoutMs?: number;
  /** How often a request is sent, at most: again after 429, 503 and a broken connection. */
  tries?: number;
}

const RETRIED = [429, 503];
const LONGEST_WAIT_MS = 30_000;

/**
 * A client of the API; each of its methods resolves to `{ data }`, or throws a `ProblemError`.
 *
 * What the API cannot do at the moment is asked again as `Retry-After` says. An event that is sent
 * again counts once, if it has an `event_id`.
 */
export function createHeadwater(options: HeadwaterOptions): HeadwaterClient {
  const { url, key, timeoutMs = 10_000, tries = 4 } = options;
  const client = createClient<paths>({
    baseUrl: url,
    ...(key === undefined ? {} : { headers: { Authorization: `Bearer ${key}` } }),
    fetch: (request) => send(request, timeoutMs, tries),
  });
  client.use(problems);
  return client;
}

async function send(request: Request, timeoutMs: number, tries: number): Promise<Response> {
  try {
    return await ky(request, {
      timeout: timeoutMs,
      retry: {
        limit: tries - 1,
        methods: ["get", "post", "put", "delete"],
        statusCodes: RETRIED,
        afterStatusCodes: RETRIED,
        maxRetryAfter: LONGEST_WAIT_MS,
      },
    });
  } catch (error) {
    if (error instanceof HTTPError) return error.response;
    throw error;
  }
}

const problems: Middleware = {
  async onResponse({ response }) {
    if (response.ok) return undefined;
    throw new ProblemError(await readProblem(response));
  },
};

/** The problem of an answer; one that a proxy has made up may be any text. */
async function readProblem(response: Response): Promise<Problem> {
  const text = await response.text();
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    return JSON.parse(text) as Problem;
  }
  const { status, statusText } = response;
  return { type: "about:blank", title: statusText, status, detail: text.slice(0, 200) };
}
