-- Better Auth 1.7 with the plugins username, admin and api-key.
create table "user" ("id" text not null primary key, "name" text not null, "email" text not null unique, "emailVerified" boolean not null, "image" text, "createdAt" timestamptz default CURRENT_TIMESTAMP not null, "updatedAt" timestamptz not null, "username" text unique, "displayUsername" text, "role" text, "banned" boolean, "banReason" text, "banExpires" timestamptz);
create table "session" ("id" text not null primary key, "expiresAt" timestamptz not null, "token" text not null unique, "createdAt" timestamptz default CURRENT_TIMESTAMP not null, "updatedAt" timestamptz not null, "ipAddress" text, "userAgent" text, "userId" text not null references "user" ("id") on delete cascade, "impersonatedBy" text);
create table "account" ("id" text not null primary key, "accountId" text not null, "providerId" text not null, "userId" text not null references "user" ("id") on delete cascade, "accessToken" text, "refreshToken" text, "idToken" text, "accessTokenExpiresAt" timestamptz, "refreshTokenExpiresAt" timestamptz, "scope" text, "password" text, "createdAt" timestamptz default CURRENT_TIMESTAMP not null, "updatedAt" timestamptz not null);
create table "verification" ("id" text not null primary key, "identifier" text not null, "value" text not null, "expiresAt" timestamptz not null, "createdAt" timestamptz default CURRENT_TIMESTAMP not null, "updatedAt" timestamptz not null);
create table "apikey" ("id" text not null primary key, "configId" text not null, "name" text, "start" text, "referenceId" text not null, "prefix" text, "key" text not null, "refillInterval" integer, "refillAmount" integer, "lastRefillAt" timestamptz, "enabled" boolean, "rateLimitEnabled" boolean, "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer, "remaining" integer, "lastRequest" timestamptz, "expiresAt" timestamptz, "createdAt" timestamptz not null, "updatedAt" timestamptz not null, "permissions" text, "metadata" text);
create index "session_userId_idx" on "session" ("userId");
create index "account_userId_idx" on "account" ("userId");
create index "verification_identifier_idx" on "verification" ("identifier");
create index "apikey_configId_idx" on "apikey" ("configId");
create index "apikey_referenceId_idx" on "apikey" ("referenceId");
create index "apikey_key_idx" on "apikey" ("key");

insert into "user" values ('u1', 'Ann', 'ann@example.test', true, null, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', 'ann', 'Ann', 'admin', false, null, null);
insert into "session" values ('s1', '2100-01-01T00:00:00.000Z', 'token-s1', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '', '', 'u1', null);
insert into "apikey" ("id", "configId", "name", "key", "referenceId", "enabled", "rateLimitEnabled", "requestCount", "createdAt", "updatedAt", "permissions", "metadata") values ('k1', 'default', 'ci', 'digest-k1', 'u1', true, true, 0, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '{"user":["list"]}', '{"a":1}');

-- What vectors.json has: Ann's password, a session and a key of hers.
insert into "account" ("id", "accountId", "providerId", "userId", "password", "createdAt", "updatedAt") values ('a1', 'u1', 'credential', 'u1', '000102030405060708090a0b0c0d0e0f:99b92e4e090f36e3374996c64903fea52f9108c61d5b397d9d601cff2b612f444033d2292b3fe5b23c0df50259a47a50a75272e30aebca6d84244113951e92a2', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z');
insert into "session" ("id", "expiresAt", "token", "createdAt", "updatedAt", "ipAddress", "userAgent", "userId") values ('s0', '2100-01-01T00:00:00.000Z', 'J9EejwswwKSYpSzBHSzq8ZUljpFCW2pG', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '', '', 'u1');
insert into "apikey" ("id", "configId", "name", "start", "key", "referenceId", "enabled", "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount", "createdAt", "updatedAt", "permissions", "metadata") values ('k0', 'default', 'vector', 'AbCdEf', 'C5vASARHBDLhD_vhiKGB_cpxfldYUKZje5zAioniabc', 'u1', true, true, 86400000, 10, 0, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '{"user":["list"]}', 'null');
