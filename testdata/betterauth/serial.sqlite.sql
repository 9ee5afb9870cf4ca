-- Better Auth 1.7 with generateId "serial" and the plugins username, admin and api-key.
create table "user" ("id" integer not null primary key, "name" text not null, "email" text not null unique, "emailVerified" integer not null, "image" text, "createdAt" date not null, "updatedAt" date not null, "username" text unique, "displayUsername" text, "role" text, "banned" integer, "banReason" text, "banExpires" date);
create table "session" ("id" integer not null primary key, "expiresAt" date not null, "token" text not null unique, "createdAt" date not null, "updatedAt" date not null, "ipAddress" text, "userAgent" text, "userId" integer not null references "user" ("id") on delete cascade, "impersonatedBy" text);
create table "account" ("id" integer not null primary key, "accountId" text not null, "providerId" text not null, "userId" integer not null references "user" ("id") on delete cascade, "accessToken" text, "refreshToken" text, "idToken" text, "accessTokenExpiresAt" date, "refreshTokenExpiresAt" date, "scope" text, "password" text, "createdAt" date not null, "updatedAt" date not null);
create table "verification" ("id" integer not null primary key, "identifier" text not null, "value" text not null, "expiresAt" date not null, "createdAt" date not null, "updatedAt" date not null);
create table "apikey" ("id" integer not null primary key, "configId" text not null, "name" text, "start" text, "referenceId" text not null, "prefix" text, "key" text not null, "refillInterval" integer, "refillAmount" integer, "lastRefillAt" date, "enabled" integer, "rateLimitEnabled" integer, "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer, "remaining" integer, "lastRequest" date, "expiresAt" date, "createdAt" date not null, "updatedAt" date not null, "permissions" text, "metadata" text);
create index "session_userId_idx" on "session" ("userId");
create index "account_userId_idx" on "account" ("userId");
create index "verification_identifier_idx" on "verification" ("identifier");
create index "apikey_configId_idx" on "apikey" ("configId");
create index "apikey_referenceId_idx" on "apikey" ("referenceId");
create index "apikey_key_idx" on "apikey" ("key");

insert into "user" ("name", "email", "emailVerified", "image", "createdAt", "updatedAt", "username", "displayUsername", "role", "banned", "banReason", "banExpires") values ('Ann', 'ann@example.test', 1, null, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', 'ann', 'Ann', 'admin', 0, null, null);
insert into "session" ("expiresAt", "token", "createdAt", "updatedAt", "ipAddress", "userAgent", "userId", "impersonatedBy") values ('2100-01-01T00:00:00.000Z', 'token-s1', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '', '', 1, null);
insert into "apikey" ("configId", "name", "key", "referenceId", "enabled", "rateLimitEnabled", "requestCount", "createdAt", "updatedAt", "permissions", "metadata") values ('default', 'ci', 'digest-k1', '1', 1, 1, 0, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '{"user":["list"]}', '{"a":1}');

-- What vectors.json has: Ann's password, a session and a key of hers.
insert into "account" ("accountId", "providerId", "userId", "password", "createdAt", "updatedAt") values ('1', 'credential', 1, '000102030405060708090a0b0c0d0e0f:99b92e4e090f36e3374996c64903fea52f9108c61d5b397d9d601cff2b612f444033d2292b3fe5b23c0df50259a47a50a75272e30aebca6d84244113951e92a2', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z');
insert into "session" ("expiresAt", "token", "createdAt", "updatedAt", "ipAddress", "userAgent", "userId") values ('2100-01-01T00:00:00.000Z', 'J9EejwswwKSYpSzBHSzq8ZUljpFCW2pG', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '', '', 1);
insert into "apikey" ("configId", "name", "start", "key", "referenceId", "enabled", "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount", "createdAt", "updatedAt", "permissions", "metadata") values ('default', 'vector', 'AbCdEf', 'C5vASARHBDLhD_vhiKGB_cpxfldYUKZje5zAioniabc', '1', 1, 1, 86400000, 10, 0, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '{"user":["list"]}', 'null');
