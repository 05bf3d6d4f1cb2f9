// vfork, posix_spawn, system and popen in the middle of a connection, which goes on; what they run has no part in it.
#include "t.h"
#include <spawn.h>

extern char **environ;

static void again(int fd, char what) {
    t_tell(fd, what);
    t_await(fd, what);
}

static void hold(int fd) {
    int status;
    again(fd, '1');
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    CHECK(pid > 0);
    t_reap(pid);
    again(fd, '2');
    // A child that closes before it execs shares its parent's memory, and must not take its parent's connection along.
    pid = vfork();
    if (pid == 0) {
        close(fd);
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    t_reap(pid);
    again(fd, '3');
    pid = vfork();
    if (pid == 0) {
        execl("/no/such/program", "none", (char *)NULL);
        _exit(77);
    }
    EQ(waitpid(pid, &status, 0), pid);
    EQ(WEXITSTATUS(status), 77);
    again(fd, '4');
    char *args[] = {"sh", "-c", "exit 5", NULL};
    posix_spawn_file_actions_t actions;
    EQ(posix_spawn_file_actions_init(&actions), 0);
    EQ(posix_spawn_file_actions_addclose(&actions, fd), 0);
    EQ(posix_spawn(&pid, "/bin/sh", &actions, NULL, args, environ), 0);
    EQ(waitpid(pid, &status, 0), pid);
    EQ(WEXITSTATUS(status), 5);
    again(fd, '5');
    EQ(WEXITSTATUS(system("exit 3")), 3);
    again(fd, '6');
    FILE *pipe = popen("echo said", "r");
    char line[16];
    CHECK(pipe != NULL && fgets(line, sizeof line, pipe) != NULL);
    EQ(strcmp(line, "said\n"), 0);
    EQ(pclose(pipe), 0);
    again(fd, '7');
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
}

static void answer(int fd) {
    char byte;
    while (OK(read(fd, &byte, 1)) == 1) t_tell(fd, byte);
    OK(close(fd));
}

static void server(void) {
    int listener = t_listen();
    hold(t_accept(listener));
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    hold(t_connect());
}
