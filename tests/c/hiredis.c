/* What an application does with hiredis, through switches: `hiredis HOST PORT STOP_FILE`.
 *
 * Checks replies of every kind, then says "running" and goes round until the file exists. An error other than an honest
 * UNCERTAIN ends it with 1. */
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static redisContext *connection;
static long uncertain;

static void fail(const char *what, redisReply *reply) {
    fprintf(stderr, "%s: %s\n", what, reply ? (reply->str ? reply->str : "(no text)") : connection->errstr);
    exit(1);
}

/* A reply of the type that is expected; NULL when it is uncertain whether the command was applied. */
static redisReply *checked(const char *what, redisReply *reply, int type) {
    if (reply && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "UNCERTAIN", 9) == 0) {
        uncertain++;
        freeReplyObject(reply);
        return NULL;
    }
    if (!reply || reply->type != type) fail(what, reply);
    return reply;
}

static void expect(int type, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    redisReply *reply = checked(format, redisvCommand(connection, format, arguments), type);
    va_end(arguments);
    if (reply) freeReplyObject(reply);
}

static void pipeline(void) {
    void *reply;
    for (int number = 0; number < 50; number++) redisAppendCommand(connection, "SET p:%d %d", number, number);
    for (int number = 0; number < 50; number++) {
        if (redisGetReply(connection, &reply) != REDIS_OK) fail("pipeline", NULL);
        reply = checked("pipeline", reply, REDIS_REPLY_STATUS);
        if (reply) freeReplyObject(reply);
    }
}

static void transaction(void) {
    expect(REDIS_REPLY_STATUS, "MULTI");
    expect(REDIS_REPLY_STATUS, "SET t v");
    redisReply *reply = redisCommand(connection, "EXEC");
    /* A switch in between may end it: nothing was applied then. */
    if (reply && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "EXECABORT", 9) == 0) {
        freeReplyObject(reply);
        return;
    }
    reply = checked("EXEC", reply, REDIS_REPLY_ARRAY);
    if (reply) freeReplyObject(reply);
}

static void binary(void) {
    redisReply *reply = redisCommand(connection, "ECHO %b", "a\0b\r\n", (size_t)5);
    if (!reply || reply->type != REDIS_REPLY_STRING || reply->len != 5 || memcmp(reply->str, "a\0b\r\n", 5)) {
        fail("ECHO", reply);
    }
    freeReplyObject(reply);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    struct timeval patience = {10, 0};
    connection = redisConnectWithTimeout(arguments[1], atoi(arguments[2]), patience);
    if (!connection || connection->err) fail("connect", NULL);
    redisSetTimeout(connection, patience);
    expect(REDIS_REPLY_STATUS, "SET word %s", "text");
    expect(REDIS_REPLY_STRING, "GET word");
    expect(REDIS_REPLY_NIL, "GET nothing");
    expect(REDIS_REPLY_INTEGER, "RPUSH list a b c");
    expect(REDIS_REPLY_ARRAY, "LRANGE list 0 -1");
    expect(REDIS_REPLY_ARRAY, "BLPOP list 1");
    expect(REDIS_REPLY_ERROR, "NOSUCHCOMMAND");
    expect(REDIS_REPLY_INTEGER, "EVAL %s 0", "return 7");
    puts("running");
    fflush(stdout);
    for (long round = 1; access(arguments[3], F_OK) != 0; round++) {
        pipeline();
        transaction();
        binary();
        expect(REDIS_REPLY_INTEGER, "INCR rounds");
        if (round % 10 == 0) {
            printf("round %ld\n", round);
            fflush(stdout);
        }
    }
    redisFree(connection);
    printf("%ld uncertain\n", uncertain);
    return 0;
}
