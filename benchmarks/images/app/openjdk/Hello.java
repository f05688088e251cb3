import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;

/** Says what it was called with, in order. */
public class Hello {
    public static void main(String[] arguments) {
        List<String> sorted = Arrays.stream(arguments).sorted().collect(Collectors.toList());
        System.out.println("hello " + sorted);
    }
}
